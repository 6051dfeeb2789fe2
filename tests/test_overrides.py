"""`--set`: any field can be set, and a wrong override is told at the override."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.spec import Key
from tests.spec_texts import EXAMPLE, SMALL, lines

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


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(OVERRIDES | st.text(max_size=8), max_size=4))
def test_no_override_makes_reading_crash(read: Any, overrides: list[str]) -> None:
    document = read(SMALL, *overrides)
    assert (document.spec is None) <= bool(document.problems)
    assert len(lines(document)) >= len({p.key for p in document.problems})
