"""YAML 1.2 core: text to plain values, with the line and column of every key.

Which keys a job spec may have is no concern of this module.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml

from launcher.spec import Key, Problem
from launcher.specfile.tree import Place, Tree

TAG = "tag:yaml.org,2002:"
CORE: dict[str, str] = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
RESOLVERS: dict[Any, Any] = {
    None: [(TAG + kind, re.compile(rf"(?:{form})\Z")) for kind, form in CORE.items()]
}


class BrokenYamlError(Exception):
    """The text is not one YAML document."""

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line, self.column = line, column


class _CoreLoader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does: `3e-3` is a number, `on` and `12:30` are strings."""

    yaml_implicit_resolvers = RESOLVERS


def parse(text: str, *, source: str) -> Tree:
    """The values and places of one document; an empty one is `None`."""
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
        builder = _Builder(source)
        data = builder.value(node, ()) if node else None
    except yaml.MarkedYAMLError as exc:
        raise _broken(exc) from exc
    except yaml.reader.ReaderError as exc:
        before = text[: exc.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        words = f"unreadable character: {exc.reason}"
        raise BrokenYamlError(words, line=line, column=column) from exc
    except RecursionError as exc:
        raise BrokenYamlError("sections are nested too deeply") from exc
    places = {(): Place(source, 1, 1)} | builder.places
    return Tree(data=data, places=places, problems=tuple(builder.problems))


def _broken(exc: yaml.MarkedYAMLError) -> BrokenYamlError:
    words = ", ".join(filter(None, [exc.problem, exc.context])) or "not YAML"
    if "'\\t'" in words:
        words += "; indent with spaces, not tabs"
    if "single document" in words:
        words = "a second document starts here; a job spec is one"
    mark = exc.problem_mark or exc.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return BrokenYamlError(words, line=line, column=column)


def _integer(text: str) -> int:
    return int(text, 8 if text[:2] == "0o" else 16 if text[:2] == "0x" else 10)


def _float(text: str) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))


SCALARS: dict[str, Callable[[str], Any]] = {
    TAG + "null": lambda _: None,
    TAG + "bool": lambda text: text.lower() == "true",
    TAG + "int": _integer,
    TAG + "float": _float,
    TAG + "str": str,
}


class _Builder:
    """Plain values from YAML nodes; notes the place of each key and what is wrong with it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[Key, Place] = {}
        self.problems: list[Problem] = []
        self._known: dict[int, Any] = {}
        self._open: set[int] = set()

    def value(self, node: yaml.Node, key: Key) -> Any:
        """The node's value; an anchored one is shared, with the places of its first use."""
        if id(node) in self._open:
            mark = node.start_mark
            words = "an anchor that contains itself"
            raise BrokenYamlError(words, line=mark.line + 1, column=mark.column + 1)
        if id(node) not in self._known:
            self._open.add(id(node))
            self._known[id(node)] = self._new(node, key)
            self._open.remove(id(node))
        return self._known[id(node)]

    def _new(self, node: yaml.Node, key: Key) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        if node.tag not in (TAG + "map", TAG + "seq"):
            self.problems.append(Problem(key, f"has the tag {node.tag!r}, which is not supported"))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        items = []
        for index, item in enumerate(node.value):
            self._mark(item, (*key, index))
            items.append(self.value(item, (*key, index)))
        return items

    def _scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        try:
            return SCALARS[node.tag](node.value)
        except KeyError:
            words = f"has the tag {node.tag!r}, which is not supported"
        except ValueError:
            words = f"is {node.value[:40]!r}, not a {node.tag.removeprefix(TAG)}"
        self.problems.append(Problem(key, words))
        return node.value

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for name_node, value_node in node.value:
            is_text = isinstance(name_node, yaml.ScalarNode)
            name = name_node.value if is_text else "?"
            inner = (*key, name)
            before = self.places.get(inner)
            self._mark(name_node, inner)
            if not is_text or name_node.tag != TAG + "str":
                self.problems.append(Problem(inner, "is not a string, as a key must be; quote it"))
            elif name == "<<" and not name_node.style:
                self.problems.append(Problem(inner, "merge keys are not supported; write it out"))
            else:
                if name in items and before:
                    words = f"is there twice, first on line {before.line}; remove one of them"
                    self.problems.append(Problem(inner, words))
                items[name] = self.value(value_node, inner)
        return items

    def _mark(self, node: yaml.Node, key: Key) -> None:
        mark = node.start_mark
        self.places[key] = Place(self.source, mark.line + 1, mark.column + 1)
