"""A job spec file: its values, what is wrong with them, and where each of them was written.

Values that the file leaves open, and combinations of values, are `planner`'s work.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.errors import SpecError
from launcher.spec import JobSpec, Key, Problem, dotted
from launcher.specfile import overrides as overriding
from launcher.specfile.checks import check
from launcher.specfile.included import include
from launcher.specfile.positions import BrokenYamlError, parse
from launcher.specfile.schema import json_schema
from launcher.specfile.tree import Place, Tree
from launcher.targets import closest

__all__ = ["Document", "read", "json_schema"]


@dataclass(frozen=True)
class Document:
    """A spec as it was read. `Document.refuse` ends the command when anything is wrong."""

    path: Path
    text: str
    """The file, verbatim."""
    data: dict[str, Any]
    """The file's values after all overrides, right or wrong."""
    spec: JobSpec | None
    """What could be understood, without the keys that have problems; `None`: too little."""
    problems: tuple[Problem, ...]
    places: Mapping[Key, Place]

    def origin(self, key: Key) -> str:
        """`job.yaml:12:5` or `--set a.b=3`; of an absent key, that of the section around it."""
        return str(self._place(key))

    def describe(self, problems: Iterable[Problem]) -> str:
        """One line for each problem, then their number."""
        lines = [self._line(problem) for problem in problems]
        return "\n".join(lines + ([f"{len(lines)} problems"] if len(lines) > 1 else []))

    def wrong(self, problems: Iterable[Problem] = ()) -> tuple[Problem, ...]:
        """In the order of the file, our problems and these, but for what follows from ours."""
        across = [p for p in problems if not any(_follows(p, other) for other in self.problems)]
        found = dict.fromkeys((*self.problems, *across))
        ordered = sorted(found, key=lambda problem: self._place(problem.key).rank)
        return tuple(map(self._both_placed, ordered))

    def refuse(self, problems: Iterable[Problem] = ()) -> None:
        """Raise `SpecError` with all that is `wrong`, if anything is."""
        if wrong := self.wrong(problems):
            raise SpecError(self.describe(wrong))

    def _place(self, key: Key) -> Place:
        return Tree(data=self.data, places=self.places).place(key)

    def _both_placed(self, problem: Problem) -> Problem:
        """With the place of the second key behind its name."""
        if problem.other is None:
            return problem
        name = dotted(problem.other)
        told = problem.message.replace(name, f"{name} ({self.origin(problem.other)})", 1)
        return replace(problem, message=told, other=None)

    def _line(self, problem: Problem) -> str:
        key = "" if problem.key[:1] == (overriding.MARK,) else dotted(problem.key)
        return ": ".join(filter(None, [self.origin(problem.key), key, problem.message]))


def _follows(problem: Problem, other: Problem) -> bool:
    """Whether `problem` lies in the same section as `other` and is about the same key."""
    if not other.key or problem.key == other.key:
        return problem.key == other.key
    return (
        problem.key[: len(other.key) - 1] == other.key[:-1]
        and len(problem.key) <= len(other.key)
        and str(other.key[-1]) in problem.message.split()
    )


def read(path: Path, *, overrides: Sequence[str] = (), code_dir: Path | None = None) -> Document:
    """Read and check a spec; only a file that is no YAML at all raises `SpecError` here.

    Targets and files are looked for in `code_dir`, the spec's own folder unless said otherwise.
    """
    text = _text(path)
    try:
        tree = parse(text, source=str(path))
    except BrokenYamlError as exc:
        raise SpecError(f"{path}:{exc.line}:{exc.column}: {exc}") from exc
    folder = code_dir or path.parent
    tree = include(overriding.apply(_rooted(tree), overrides, folder=folder), folder=folder)
    checked = check(tree, folder=folder.absolute())
    return Document(
        path=path,
        text=text,
        data=tree.data,
        spec=checked.spec,
        problems=checked.problems,
        places=checked.tree.places,
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        specs = [p.name for kind in ("*.yaml", "*.yml") for p in path.parent.glob(kind)]
        near = closest(path.name, specs)
        hint = f"did you mean {path.with_name(near)}?" if near else "`launcher init` writes one"
        raise SpecError(f"{path}: there is no such file; {hint}") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder; name the spec file in it") from None
    except UnicodeDecodeError as exc:
        raise SpecError(f"{path}: is not UTF-8 text ({exc.reason} at byte {exc.start})") from exc
    except (OSError, ValueError) as exc:
        raise SpecError(f"{path}: cannot be read: {exc}") from exc


def _rooted(tree: Tree) -> Tree:
    """The tree of a mapping; anything else is one problem, so that overrides still apply."""
    if isinstance(tree.data, dict):
        return tree
    words = "must be a mapping of keys such as name, model and train"
    if tree.data is None:
        words = "the file is empty; `launcher init` writes a spec to start from"
    return Tree(data={}, places=tree.places, problems=(*tree.problems, Problem((), words)))
