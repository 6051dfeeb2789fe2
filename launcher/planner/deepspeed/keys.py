"""What is wrong with a person's DeepSpeed config by itself; DeepSpeed passes over much of it.

Where it and the spec say different things is told in `agreement`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from launcher.planner.deepspeed.said import (
    ACCUMULATION,
    AUTO,
    AUTOCAST_DTYPE,
    CONFIG,
    DTYPES,
    SHARED,
    SWITCHES,
    is_count,
    said,
    shown,
)
from launcher.planner.deepspeed.vocabulary import PASSED, REFUSED, REMOVED
from launcher.spec import Key, Problem, dotted
from launcher.targets import closest

_FIXED: dict[Key, tuple[Any, str]] = {
    ("gradient_allreduce_op",): ("mean", "a step's loss is the mean over its samples"),
    ("zero_optimization", "offload_optimizer", "ratio"): (
        1,
        "what it leaves on the GPU is in no checkpoint",
    ),
    ("managed_gradient_accumulation",): (True, "the launcher says where a step ends"),
}
"""What a run relies on, and why."""


def key_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Unknown keys, keys that a run cannot follow, and values that cannot be."""
    for path, known in PASSED.items():
        section = said(config, path)
        if section is not None and not isinstance(section, Mapping):
            yield _problem(path, f"is {shown(section)}, must be a mapping")
        else:
            for name in section or ():
                yield from _key(config, (*path, name), known)
    for shared in SHARED:
        yield from _value(config, shared.path, shared.fits, shared.must)
    yield from _value(config, ACCUMULATION, is_count, "be an integer over 0")
    yield from _value(config, AUTOCAST_DTYPE, _is_dtype, "be bfloat16 or float16")
    for path in SWITCHES:
        yield from _value(config, path, lambda value: isinstance(value, bool), "be true or false")
    for path, (fixed, why) in _FIXED.items():
        if said(config, path) not in (None, fixed):
            yield _problem(path, f"must be {str(fixed).lower()}: {why}; take it away")


def _key(config: Mapping[str, Any], path: Key, known: frozenset[str]) -> Iterator[Problem]:
    name, value = str(path[-1]), said(config, path)
    if path in REMOVED or (path in REFUSED and not _is_off(value)):
        reason = REMOVED.get(path) or REFUSED[path]
        instead = "" if "write" in reason else "; take it away"
        yield _problem(path, f"cannot be followed: {reason}{instead}")
    elif name not in known and path not in REFUSED:
        yield _problem(path, f"unknown key of DeepSpeed{_hint(path, known)}")


def _is_off(value: Any) -> bool:
    """Whether a key that is refused changes nothing: "auto" is as the spec says, and a size of 1
    splits nothing."""
    if isinstance(value, Mapping):
        says = [each for name, each in value.items() if name != "type"]
        return value.get("enabled") is False or (bool(says) and all(map(_is_off, says)))
    return value in (None, AUTO) or value is False or (type(value) is int and value <= 1)


def _hint(path: Key, known: frozenset[str]) -> str:
    name = str(path[-1])
    if near := closest(name, known):
        return f"; did you mean {near}?"
    homes = [section for section, names in PASSED.items() if name in names]
    places = " or ".join(dotted((*CONFIG, *home)) for home in homes)
    if places:
        return f"; {name} belongs under {places}"
    return "" if path[:-1] else "; it would be passed over in silence"


def _value(
    config: Mapping[str, Any], path: Key, fits: Callable[[Any], bool], must: str
) -> Iterator[Problem]:
    value = said(config, path)
    if value is not None and not fits(value):
        yield _problem(path, f"is {shown(value)}, must {must}")


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str) and value in DTYPES


def _problem(path: Key, message: str) -> Problem:
    return Problem((*CONFIG, *path), message)
