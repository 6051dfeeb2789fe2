"""`launcher.specfile`: YAML, `--set`, positions, and what is said about mistakes."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher import specfile
from launcher.errors import SpecError
from launcher.spec import Problem
from tests.spec_texts import EXAMPLE, SMALL, lines


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
        ("strategy: dp", "is 'dp', must be ddp or deepspeed; did you mean ddp?"),
        ("strategy: {zero_stage: 4}", "is 4, must be from 0 to 3"),
        ("strategy: {zero_stage: true}", "is true (a boolean), must be an integer"),
        ("strategy: {config: 3}", "is 3 (an integer), must be a string or be a mapping"),
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


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("digits:DigitCNN", "digits.py has no 'DigitCNN'; did you mean 'DigitsCNN'?"),
        ("two words", "is 'two words', must be an import path such as package.module:name"),
        ("a..b", "is 'a..b', must be an import path such as package.module:name"),
        ("digits:DigitsCNN", None),
    ],
)
def test_a_class_to_recompute_is_checked_as_every_target(
    read: Any, path: str, said: str | None
) -> None:
    found = lines(read(EXAMPLE, f"train.recompute=[torch.nn:Linear, '{path}']"))
    assert [line.split("train.recompute.1: ")[1] for line in found] == ([said] if said else [])


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
