"""The JSON file that a spec names instead of writing a section out: its values and their places.

What the values mean, and whether they agree with the spec, is `planner`'s work.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from launcher.spec import Key, Problem
from launcher.specfile.positions import BrokenYamlError, parse
from launcher.specfile.tree import Tree
from launcher.targets import closest

NAMED: Key = ("strategy", "config")


def include(tree: Tree, *, folder: Path) -> Tree:
    """The tree with what is in the named file in place of its name; else as it was.

    A file that cannot be read is one problem at the key, and counts as empty.
    """
    name = tree.get(NAMED)
    if not isinstance(name, str):
        return tree
    place, source = tree.place(NAMED), folder / name
    try:
        text = _text(source, name=name)
        data = _json(text, source=source)
    except _UnusableError as exc:
        problems = (*tree.problems, Problem(NAMED, str(exc)))
        return replace(tree.put(NAMED, {}, place=place), problems=problems)
    marked = _marked(text, source=source)
    tree = tree.put(NAMED, data, place=place)
    places = {(*NAMED, *key): replace(at, inside=place) for key, at in marked.places.items() if key}
    return replace(
        tree,
        places={**tree.places, **places},
        problems=(*tree.problems, *(Problem((*NAMED, *p.key), p.message) for p in marked.problems)),
    )


class _UnusableError(Exception):
    """The file cannot be used, and what to do about it."""


def _text(source: Path, *, name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise _UnusableError(
            f"is {name!r}, must lie in the spec's folder, which is all that goes to a cluster; "
            "copy the file there, or make a link to it"
        )
    try:
        return source.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = closest(source.name, [path.name for path in source.parent.glob("*.json")])
        hint = f"; did you mean {source.with_name(near)}?" if near else ""
        raise _UnusableError(f"there is no file {source}{hint}") from None
    except IsADirectoryError:
        raise _UnusableError(f"{source} is a folder; name the JSON file in it") from None
    except UnicodeDecodeError as exc:
        words = f"{source} is not UTF-8 text ({exc.reason} at byte {exc.start})"
        raise _UnusableError(words) from exc
    except (OSError, ValueError) as exc:
        raise _UnusableError(f"{source} cannot be read: {exc}") from exc


def _json(text: str, *, source: Path) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        words = f"{exc.msg[:1].lower()}{exc.msg[1:]}"
        raise _UnusableError(f"{source}:{exc.lineno}:{exc.colno}: is not JSON: {words}") from exc
    except (RecursionError, ValueError) as exc:
        raise _UnusableError(f"{source}: is not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise _UnusableError(f"{source}:1:1: must be a JSON object, in braces")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number there")


def _marked(text: str, *, source: Path) -> Tree:
    """The file as YAML, of which JSON is a part but for tabs and very long keys: for the places."""
    try:
        return parse(text.replace("\t", " "), source=str(source))
    except BrokenYamlError:
        return Tree(data=None, places={})
