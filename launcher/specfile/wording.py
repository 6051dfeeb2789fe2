"""What is said about each value that the spec's sections refuse, and what was probably meant.

Collecting the refusals, and going on after them, is the work of `checks`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from launcher.spec import Key, Problem, Target
from launcher.specfile.sections import (
    fields,
    is_import_path,
    range_at,
    section_at,
    shorthand_at,
)
from launcher.specfile.tree import ABSENT, Tree
from launcher.targets import closest

SHOWN_CHARACTERS = 40
IMPORT_PATH = "an import path such as package.module:name"
TYPES = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
LIMITS = {
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
}


@dataclass(frozen=True)
class Fault:
    """A problem that the sections found, and the key that was probably meant, if another."""

    problem: Problem
    kind: Literal["unknown", "missing", "value"]
    meant: Key | None = None


def faults(error: ValidationError, tree: Tree) -> Iterator[Fault]:
    """All that pydantic refused, once per key, in our words."""
    by_key: dict[Key, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_key(detail, tree), []).append(detail)
    for key, details in by_key.items():
        values = [d for d in details if d["type"] not in ("extra_forbidden", "missing")]
        below = any(other[: len(key)] == key != other for other in by_key)
        if not values:
            yield _unknown(key, tree) if details[0]["type"] == "extra_forbidden" else _missing(key)
        elif not (below and all(d["type"].endswith("_type") for d in values)):
            yield Fault(Problem(key, _value(tree.get(key), values, key=key)), "value")


def _key(detail: ErrorDetails, tree: Tree) -> Key:
    """pydantic's location, without the parts that name a type or the field of a shorthand."""
    key: Key = ()
    for part in detail["loc"]:
        if tree.get((*key, part)) is not ABSENT:
            key = (*key, part)
    return (*key, detail["loc"][-1]) if detail["type"] == "missing" else key


def _missing(key: Key) -> Fault:
    return Fault(Problem(key, "is required"), "missing")


def _unknown(key: Key, tree: Tree) -> Fault:
    name = str(key[-1])
    section = section_at(key[:-1])
    siblings = list(section.model_fields) if section else []
    words = f"unknown key, value {shown(tree.get(key))}"
    if near := closest(name, siblings):
        return Fault(Problem(key, f"{words}; did you mean {near}?"), "unknown", (*key[:-1], near))
    if section and issubclass(section, Target):
        words += f"; an argument of the callable belongs under {'.'.join(map(str, key[:-1]))}.args"
        return Fault(Problem(key, words), "unknown")
    homes = [home for home in fields() if home[-1] == name]
    if homes:
        places = " or ".join(".".join(map(str, home[:-1])) or "the top level" for home in homes)
        words += f"; {name} belongs under {places}".replace("under the top", "at the top")
    elif near := closest(name, {str(home[-1]) for home in fields()}):
        homes = [home for home in fields() if home[-1] == near]
        words += f"; did you mean {' or '.join('.'.join(map(str, home)) for home in homes)}?"
    else:
        words += f"; known here: {', '.join(siblings)}"
    return Fault(Problem(key, words), "unknown", homes[0] if len(homes) == 1 else None)


def _value(value: Any, details: Iterable[ErrorDetails], *, key: Key) -> str:
    """`is 'twelve' (a string), must be an integer`; a union's requirements are joined by `or`."""
    limits = [detail for detail in details if not detail["type"].endswith("_type")]
    must = " or ".join(dict.fromkeys(_requirement(d, key) for d in limits or details))
    kind = "" if limits or value is None else f" ({_kind(value)})"
    hint = _hint(value, limits, must)
    return f"is {shown(value)}{kind}, must {must}{f'; {hint}' if hint else ''}"


def _requirement(detail: ErrorDetails, key: Key) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "model_type" and shorthand_at(key) == "target":
        return f"be {IMPORT_PATH}, or a mapping with target and args"
    if kind in TYPES:
        return f"be {TYPES[kind]}"
    if kind in ("greater_than_equal", "less_than_equal") and (both := range_at(key)):
        return "be from {} to {}".format(*both)
    if kind in LIMITS:
        return f"be {LIMITS[kind].format(**context)}"
    if kind == "literal_error":
        return f"be {', '.join(_choices(detail))}".replace(", ", " or ")
    if kind == "string_pattern_mismatch":
        return f"be {IMPORT_PATH}" if _is_target(key) else f"match {context['pattern']}"
    return f"be different: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _is_target(key: Key) -> bool:
    return shorthand_at(key) == "target" or key[-1:] == ("target",) or is_import_path(key)


def _choices(detail: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", detail.get("ctx", {}).get("expected", ""))


def _hint(value: Any, limits: Iterable[ErrorDetails], must: str) -> str | None:
    """What to write instead, where the value tells what was meant."""
    for detail in limits:
        if detail["type"] == "literal_error" and (near := closest(str(value), _choices(detail))):
            return f"did you mean {near}?"
        if detail["type"] == "string_pattern_mismatch":
            near = re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-")
            fits = near and re.search(detail["ctx"]["pattern"], near) and "match" in must
            return f"did you mean {near}?" if fits else None
    if "true or false" in must and str(value).lower() in (
        "yes",
        "on",
        "no",
        "off",
        "true",
        "false",
    ):
        return f"did you mean {shown(str(value).lower() in ('yes', 'on', 'true'))}?"
    if "an integer" in must and isinstance(value, float) and value.is_integer():
        return f"did you mean {int(value)}?"
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", value)
    return "remove the quotes" if is_number and re.search("integer|number", must) else None


def shown(value: Any) -> str:
    """The value as YAML would have it on one line, shortened."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "a mapping")
