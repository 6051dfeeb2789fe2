"""A spec's values, and the place in a file or on the command line that each key came from.

Parsing is `positions`' work, and what the values ought to be is told by `sections`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from launcher.spec import Key, Problem

ABSENT = object()


@dataclass(frozen=True)
class Place:
    """Where a key was written: a position in the file, or an override."""

    source: str
    line: int
    """From 1; 0: an override."""
    column: int
    """From 1; of an override, its number on the command line."""
    inside: "Place | None" = None
    """Of a place in another file: where that file is named."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    @property
    def rank(self) -> tuple[int, ...]:
        """Sorts places as a person reads: down the file, then along the command line."""
        outer = self.inside.rank if self.inside else ()
        return (*outer, not self.line, self.line, self.column)


@dataclass(frozen=True)
class Tree:
    """Plain data with the place of each key; every change makes a new tree."""

    data: Any
    places: Mapping[Key, Place]
    problems: tuple[Problem, ...] = ()

    def get(self, key: Key) -> Any:
        """The value at `key`, or `ABSENT`."""
        value = self.data
        for part in key:
            value = _child(value, part)
        return value

    def place(self, key: Key) -> Place:
        """The place of `key`, or of the nearest section around it that was written."""
        while key not in self.places:
            key = key[:-1]
        return self.places[key]

    def put(self, key: Key, value: Any, *, place: Place) -> "Tree":
        """Set `key`, whose section is there; what stood below it is forgotten."""
        return replace(
            self, data=_with(self.data, key, value), places=self._without(key) | {key: place}
        )

    def take(self, key: Key, *, place: Place) -> "Tree":
        """Remove `key` as a person asked; the place that asked is remembered."""
        forgotten = key[:-1] if key and isinstance(key[-1], int) else key
        places = self._without(forgotten) | {key[: len(forgotten)]: place}
        return replace(self, data=_with(self.data, key, ABSENT), places=places)

    def prune(self, key: Key) -> "Tree":
        """Leave `key` out, with the whole list where it is in one; places stay."""
        lists = (i for i, part in enumerate(key) if isinstance(part, int))
        return replace(self, data=_with(self.data, key[: next(lists, len(key))], ABSENT))

    def move(self, key: Key, target: Key) -> "Tree":
        """Take `key` for `target`, where the latter's section is there and lacks it."""
        value, section = self.get(key), self.get(target[:-1])
        pruned = self.prune(key)
        if not isinstance(section, dict) or target[-1] in section or ABSENT in (value, section):
            return pruned
        moved = {
            target + old[len(key) :]: at for old, at in self.places.items() if _is_below(old, key)
        }
        return replace(
            pruned, data=_with(pruned.data, target, value), places={**moved, **self.places}
        )

    def _without(self, key: Key) -> dict[Key, Place]:
        return {old: at for old, at in self.places.items() if not _is_below(old, key)}


def _is_below(key: Key, ancestor: Key) -> bool:
    return key[: len(ancestor)] == ancestor


def _child(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part, ABSENT)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return ABSENT


def _with(tree: Any, key: Key, value: Any) -> Any:
    """`tree` with `value` at `key`, sharing all the rest; `ABSENT` removes."""
    if not key:
        return value
    part, rest = key[0], key[1:]
    child = _child(tree, part)
    if rest and child is ABSENT:
        return tree
    new = _with(child, rest, value)
    if isinstance(tree, list) and isinstance(part, int):
        return [*tree[:part], *([] if new is ABSENT else [new]), *tree[part + 1 :]]
    if not isinstance(tree, dict):
        return tree
    if new is ABSENT:
        return {name: item for name, item in tree.items() if name != part}
    return {**tree, part: new}
