"""`launcher.specfile`: YAML, `--set`, positions, and what is said about mistakes."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher import specfile
from launcher.errors import SpecError
from launcher.spec import Key, Problem

EXAMPLE = """\
name: digits-cnn                  # [a-z0-9-], names the run
seed: 7
model:  {target: digits:DigitsCNN, args: {width: 32}}
data:
  train: {target: digits:digits, args: {split: train}}
  eval:  {target: digits:digits, args: {split: test}}
  loader: {num_workers: 2, prefetch_factor: 4, pin_memory: true}
train:
  loss: torch.nn:CrossEntropyLoss
  optimizer: {target: torch.optim:AdamW, args: {lr: 3e-3}}
  schedule:
    {target: torch.optim.lr_scheduler:CosineAnnealingLR, args: {T_max: 500}, warmup_steps: 20}
  global_batch_size: 128
  micro_batch_size: 64
  max_epochs: 12
  precision: bf16
  clip_grad_norm: 1.0
  compile: false
eval: {every_steps: 100, metrics: [accuracy]}
strategy: ddp
resources: {world_size: 2, cpus_per_rank: 1, gpus_per_rank: 0}
checkpoint: {every_steps: 50, keep_last: 3}
retries: {node_loss: 3, crash: 1, hang: 1}
tracking: {wandb: {project: digits}}
storage: runs
"""

SMALL = """\
name: small
model: digits:DigitsCNN
train: {optimizer: torch.optim:AdamW, global_batch_size: 8}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "digits.py").write_text("class DigitsCNN: ...\ndef digits(split): ...\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Any:
    def read(text: str, *overrides: str) -> specfile.Document:
        (folder / "job.yaml").write_text(text)
        return specfile.read(Path("job.yaml"), overrides=overrides)

    return read


def lines(document: specfile.Document) -> list[str]:
    return document.describe(document.problems).splitlines()


def test_the_example_of_the_contract_is_a_spec_without_problems(read: Any) -> None:
    document = read(EXAMPLE)
    assert document.problems == ()
    assert document.spec.train.optimizer.args == {"lr": 0.003}
    assert document.spec.strategy.name == "ddp"
    assert document.text == EXAMPLE
    assert document.refuse() is None


def test_six_mistakes_are_told_in_one_pass_each_with_its_place(read: Any) -> None:
    text = (
        EXAMPLE.replace("max_epochs: 12", "max_epoch: 12")
        .replace("global_batch_size: 128", "global_batch_size: twelve")
        .replace("bf16", "bf61")
        .replace("num_workers: 2", "num_workers: -1")
        .replace("project: digits", "entity: me")
        .replace("digits:DigitsCNN", "digits:DigitCNN")
    )
    with pytest.raises(SpecError) as caught:
        read(text).refuse()
    assert str(caught.value).splitlines() == [
        "job.yaml:3:10: model.target: digits.py has no 'DigitCNN'; did you mean 'DigitsCNN'?",
        "job.yaml:7:12: data.loader.num_workers: is -1, must be at least 0",
        "job.yaml:13:3: train.global_batch_size: is 'twelve' (a string), must be an integer",
        "job.yaml:15:3: train.max_epoch: unknown key, value 12; did you mean max_epochs?",
        "job.yaml:16:3: train.precision: is 'bf61', must be fp32 or bf16 or fp16; "
        "did you mean bf16?",
        "job.yaml:24:12: tracking.wandb.project: is required",
        "6 problems",
    ]


def test_a_misspelt_key_still_counts_so_that_nothing_follows_from_it(read: Any) -> None:
    document = read(EXAMPLE.replace("optimizer:", "optimzer:").replace("AdamW", "Adamw"))
    assert lines(document) == [
        "job.yaml:10:3: train.optimzer: unknown key, value "
        '{"target": "torch.optim:Adamw", "args...; did you mean optimizer?',
        "job.yaml:10:14: train.optimizer.target: torch.optim has no 'Adamw'; did you mean 'AdamW'?",
        "2 problems",
    ]
    assert document.spec.train.optimizer.args == {"lr": 0.003}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_epochs: 3", "unknown key, value 3; max_epochs belongs under train"),
        ("every_steps: 3", "unknown key, value 3; every_steps belongs under eval or checkpoint"),
        ("max_epoch: 3", "unknown key, value 3; did you mean train.max_epochs?"),
        ("on: 3", "unknown key, value 3; known here: name, seed, model, "),
        ("seed: 3.0", "is 3.0 (a number), must be an integer; did you mean 3?"),
        ("seed: '3'", "is '3' (a string), must be an integer; remove the quotes"),
        ("seed: true", "is true (a boolean), must be an integer"),
        ("seed: -1", "is -1, must be at least 0"),
        ("seed:", "is null, must be an integer"),
        ("strategy: dp", "is 'dp', must be ddp; did you mean ddp?"),
        ("task: 3", "is 3 (an integer), must be an import path such as package.module:name, or a"),
        ("task: two words", "is 'two words', must be an import path such as package.module:name"),
        ("resources: {world_size: x}", "is 'x' (a string), must be an integer or be a list"),
        ("resources: {world_size: [1]}", "is [1], must be a list of at least 2"),
        ("resources: {world_size: 0}", "is 0, must be greater than 0"),
        ("checkpoint: [1]", "is [1] (a list), must be a mapping"),
        ("data: {train: {target: digits:digits, split: x}}", "; an argument of the callable"),
        ("data: {loader: {pin_memory: yes}}", "is 'yes' (a string), must be true or false; did"),
        ("eval: {metrics: [acuracy]}", "nor an import path; did you mean accuracy?"),
        ("name: small", "is there twice, first on line 1; remove one of them"),
        ("3: x", "is not a string, as a key must be; quote it"),
        ("<<: {seed: 3}", "merge keys are not supported; write it out"),
        ("seed: !!python/name:os.system", "has the tag"),
    ],
)
def test_each_mistake_is_worded_for_the_person_who_made_it(read: Any, line: str, said: str) -> None:
    document = read(SMALL + line)
    assert len(document.problems) == 1
    assert document.describe(document.problems).startswith("job.yaml:4:")
    assert said in document.describe(document.problems)
    assert document.spec.name == "small"


def test_a_name_that_does_not_fit_gets_one_that_does(read: Any) -> None:
    document = read(SMALL.replace("name: small", "name: My Model_2"))
    assert lines(document)[0].endswith("; did you mean my-model-2?")
    assert document.spec is None


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3e-3", 0.003),
        ("1_000", "1_000"),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("12:30:45", "12:30:45"),
        ("2024-01-02", "2024-01-02"),
        ("yes", "yes"),
        ("off", "off"),
        ("True", True),
        ("~", None),
        ("Null", None),
        ("", None),
        ("-.inf", -math.inf),
        ("+.5", 0.5),
        ("'3'", "3"),
        ("!!str 3", "3"),
    ],
)
def test_plain_scalars_are_read_as_yaml_1_2(read: Any, written: str, value: object) -> None:
    document = read(
        SMALL.replace("digits:DigitsCNN", f"{{target: digits:digits, args: {{a: {written}}}}}")
    )
    assert document.spec.model.args == {"a": value}
    assert type(document.spec.model.args["a"]) is type(value)


def test_an_alias_is_its_anchor_and_an_override_of_one_leaves_the_other(read: Any) -> None:
    document = read(
        "data: {train: &d {target: digits:digits, args: {split: a}}, eval: *d}\n" + SMALL,
        "data.eval.args.split=b",
    )
    assert document.spec.data.train.args == {"split": "a"}
    assert document.spec.data.eval.args == {"split": "b"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [a", "job.yaml:1:9: "),
        ("a: 1\n\tb: 2", "job.yaml:2:1: "),
        ("a: 1\n---\nb: 2", "job.yaml:2:1: a second document starts here"),
        ("a: &x [*x]", "job.yaml:1:4: an anchor that contains itself"),
        ("a: 1\nb: \x07", "job.yaml:2:4: unreadable character"),
        ("[" * 1000, "job.yaml:1:1: sections are nested too deeply"),
    ],
)
def test_broken_yaml_is_refused_at_once_with_its_place(read: Any, text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert str(caught.value).startswith(said)


def test_a_file_that_cannot_be_read_says_what_to_do(folder: Path) -> None:
    (folder / "job.yaml").write_bytes(b"name: \xff")
    for name, said in [
        ("jop.yaml", "did you mean job.yaml?"),
        ("other", "`launcher init` writes one"),
        (".", "is a folder"),
        ("job.yaml", "is not UTF-8 text"),
    ]:
        with pytest.raises(SpecError, match=said):
            specfile.read(Path(name))


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just text"])
def test_a_file_without_keys_is_one_problem_besides_the_keys_it_lacks(read: Any, text: str) -> None:
    document = read(text)
    assert document.spec is None
    assert [problem.key for problem in document.problems] == [(), ("name",), ("train",)]
    assert read(text, "name=a", "train={optimizer: torch.optim:SGD, global_batch_size: 1}").spec


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.max_epochs=3", ("train", "max_epochs"), 3),
        ("model.args.width=3", ("model", "args"), {"width": 3}),
        ("strategy.find_unused_parameters=true", ("strategy", "name"), "ddp"),
        ("eval={every_steps: 5}", ("eval", "metrics"), []),
        ("eval.metrics.1=loss", ("eval", "metrics", 1, "target"), "loss"),
        ("eval.metrics.0.name=hits", ("eval", "metrics", 0, "target"), "accuracy"),
        ("train.schedule=null", ("train", "schedule"), None),
        ("tracking.wandb.tags.0=a", ("tracking", "wandb", "tags"), ["a"]),
        ("model.args.inner={target: digits:digits, args: {split: x}}", ("model", "args"), None),
    ],
)
def test_an_override_sets_any_field(read: Any, override: str, key: Key, value: object) -> None:
    document = read(
        EXAMPLE.replace("{target: digits:DigitsCNN, args: {width: 32}}", "digits:DigitsCNN"),
        override,
    )
    assert document.problems == ()
    found: Any = document.spec
    for part in key:
        found = found[part] if hasattr(found, "__getitem__") else getattr(found, str(part))
    assert found == value or value is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.max_epoch=3", "train.max_epoch: unknown key, value 3; did you mean max_epochs?"),
        ("train.max_epoch=null", "train.max_epoch: unknown key, value null; did you mean max_epo"),
        ("train.max_epochs", "is not KEY=VALUE; write for example --set train.max_epochs=VALUE"),
        ("train.max_epochs: 3", "is not KEY=VALUE; write for example --set train.max_epochs=3"),
        ("=3", "is not KEY=VALUE; write for example --set train.max_epochs=3"),
        ("seed.x=3", "seed is 7, which has nothing below it"),
        ("eval.metrics.5=a", "eval.metrics is a list of 1; eval.metrics.1 adds an item to it"),
        ("train.loss=[1", "the value is not YAML: "),
        ("train={}", "train.optimizer: is required"),
    ],
)
def test_a_wrong_override_is_a_problem_at_the_override(read: Any, override: str, said: str) -> None:
    assert lines(read(EXAMPLE, override))[0].startswith(f"--set {override}: {said}")


def test_origin_names_who_set_a_value(read: Any) -> None:
    document = read(EXAMPLE, "train.max_epochs=3", "checkpoint=null", "retries={crash: 2}")
    assert document.origin(("train", "loss")) == "job.yaml:9:3"
    assert document.origin(("train", "max_epochs")) == "--set train.max_epochs=3"
    assert document.origin(("train", "max_steps")) == "job.yaml:8:1"
    assert document.origin(("eval", "metrics", 0)) == "job.yaml:19:36"
    assert document.origin(("checkpoint",)) == "--set checkpoint=null"
    assert document.origin(("retries", "crash")) == "--set retries={crash: 2}"
    assert document.origin(("no", "such", "key")) == "job.yaml:1:1"


def test_refuse_adds_the_planners_problems_but_not_what_follows_from_ours(read: Any) -> None:
    document = read(EXAMPLE.replace("max_epochs: 12", "max_epochs: twelve"))
    planned = [
        Problem(("train",), "needs max_epochs or max_steps"),
        Problem(("train", "micro_batch_size"), "is 64, more than a rank gets"),
    ]
    with pytest.raises(SpecError) as caught:
        document.refuse(planned)
    assert str(caught.value).splitlines() == [
        "job.yaml:14:3: train.micro_batch_size: is 64, more than a rank gets",
        "job.yaml:15:3: train.max_epochs: is 'twelve' (a string), must be an integer",
        "2 problems",
    ]


def test_every_target_is_checked_and_one_cause_is_told_once(read: Any, folder: Path) -> None:
    (folder / "digits.py").write_text("import no_such_package\ndef digits(split): ...\n")
    document = read(
        EXAMPLE, "task=tasks:Mine", "model.args.a=[{b: {target: torch.nn:Relu}}]", "train.loss=a..b"
    )
    assert [(p.key, p.message.split(";")[0]) for p in document.problems] == [
        (("model", "target"), "digits.py:1 imports 'no_such_package', which is not installed"),
        (("model", "args", "a", 0, "b", "target"), "torch.nn has no 'Relu'"),
        (("train", "loss"), "is 'a..b', must be an import path such as package.module:name"),
        (("task",), "no module named 'tasks' beside the spec or installed"),
    ]


NAMES = st.sampled_from(
    ["train", "model", "args", "eval", "metrics", "strategy", "seed", "target", "0", "1", "x", ""]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["ddp", "a:b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OVERRIDES = st.builds(
    lambda names, value: f"{'.'.join(names)}={value}",
    st.lists(NAMES, min_size=1, max_size=5),
    VALUES.map(json.dumps) | st.text(max_size=12),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(OVERRIDES | st.text(max_size=8), max_size=4))
def test_no_override_makes_reading_crash(read: Any, overrides: list[str]) -> None:
    document = read(SMALL, *overrides)
    assert (document.spec is None) <= bool(document.problems)
    assert len(lines(document)) >= len({p.key for p in document.problems})


def test_the_json_schema_accepts_shorthands_and_has_no_nulls() -> None:
    schema = specfile.json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert {"type": "string"} in schema["$defs"]["Target"]["anyOf"]
    assert "null" not in json.dumps(schema)
    assert schema["properties"]["model"]["description"] == "Any callable that returns an nn.Module."


def test_reading_specs_costs_no_heavy_import() -> None:
    code = "import sys, launcher.specfile; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "ray", "click", "rich"} & set(done.stdout.split())
