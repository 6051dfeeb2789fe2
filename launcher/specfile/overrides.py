"""`--set KEY=VALUE`: how overrides change a spec's values before they are checked.

Whether the result is a job spec is found out in `checks`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher.spec import Key, Problem, dotted
from launcher.specfile import sections
from launcher.specfile.included import NAMED, include
from launcher.specfile.positions import BrokenYamlError, parse
from launcher.specfile.tree import ABSENT, Place, Tree

MARK = "--set"


def apply(tree: Tree, overrides: Sequence[str], *, folder: Path) -> Tree:
    """The tree after every override, left to right; a bad one becomes a problem.

    An override may reach into the file that a section is in, which lies in `folder`.
    """
    for number, text in enumerate(overrides, start=1):
        place = Place(f"{MARK} {text}", 0, number)
        try:
            tree = _apply(tree, text, place=place, folder=folder)
        except _MalformedError as exc:
            key: Key = (MARK, number)
            tree = replace(
                tree,
                places={**tree.places, key: place},
                problems=(*tree.problems, Problem(key, str(exc))),
            )
    return tree


class _MalformedError(Exception):
    """An override that cannot be applied, and what to write instead."""


def _apply(tree: Tree, text: str, *, place: Place, folder: Path) -> Tree:
    name, equals, value_text = text.partition("=")
    names = name.strip().split(".")
    if not equals or not all(names):
        hint = text.replace(":", "=", 1).replace(" ", "") if ":" in text else f"{name}=VALUE"
        example = hint if all(names) and not equals else "train.max_epochs=3"
        raise _MalformedError(f"is not KEY=VALUE; write for example {MARK} {example}")
    try:
        value = parse(value_text, source=place.source)
    except BrokenYamlError as exc:
        raise _MalformedError(f"the value is not YAML: {exc}; put it in quotes") from exc
    if tuple(names[: len(NAMED)]) == NAMED and len(names) > len(NAMED):
        tree = include(tree, folder=folder)
    if value.data is None and _nothing_to_take(tree, names):
        return tree
    key: Key = ()
    for part in names:
        tree = _opened(tree, key, place=place)
        key = (*key, _part(tree, key, part))
    inner = tuple(Problem((*key, *problem.key), problem.message) for problem in value.problems)
    tree = replace(tree, problems=(*tree.problems, *inner))
    if value.data is None and tree.get(key) is not ABSENT:
        return tree.take(key, place=place)
    return tree.put(key, value.data, place=place)


def _nothing_to_take(tree: Tree, names: Sequence[str]) -> bool:
    """A known key that is absent already; a misspelt one must not pass in silence."""
    key: Key = tuple(int(name) if name.isdecimal() else name for name in names)
    return tree.get(key) is ABSENT and sections.is_known(key)


def _opened(tree: Tree, key: Key, *, place: Place) -> Tree:
    """The tree with a section at `key`: a bare string is written out, an absent one is made."""
    value = tree.get(key)
    field = sections.shorthand_at(key)
    if isinstance(value, str) and field:
        written = tree.place(key)
        tree = tree.put(key, {field: value}, place=written)
    elif value is ABSENT or value is None:
        tree = tree.put(key, [] if sections.is_list(key) else {}, place=place)
    elif not isinstance(value, dict | list):
        raise _MalformedError(f"{dotted(key)} is {value!r}, which has nothing below it")
    return tree


def _part(tree: Tree, key: Key, name: str) -> str | int:
    section = tree.get(key)
    if not isinstance(section, list):
        return name
    if not name.isdecimal() or int(name) > len(section):
        words = f"{dotted(key)} is a list of {len(section)}; {dotted((*key, len(section)))} adds"
        raise _MalformedError(f"{words} an item to it")
    return int(name)
