"""What is wrong with an import path, found by reading files: nothing is imported.

When a name can only be known by running the module, it is taken to be there.
"""

import difflib
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from launcher.targets.source import Source

UNREADABLE = (OSError, ValueError, ImportError, AttributeError, RecursionError, MemoryError)


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a person who wrote `name` most likely meant, if any is close."""
    known = list(candidates)
    same = [other for other in known if other.lower() == name.lower()]
    return next(iter(same + difflib.get_close_matches(name, known, n=1, cutoff=0.7)), None)


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a candidate is close, else nothing."""
    close = closest(name, candidates)
    return f"; did you mean {close!r}?" if close else ""


def find_problem(target: str, *, search_path: Sequence[str]) -> str | None:
    """Why `target` cannot be loaded, as far as reading files tells; `None`: nothing found.

    `search_path` is the folder of the person's own code, then `sys.path`.
    """
    try:
        return _Search(search_path).problem(target)
    except UNREADABLE:
        return None


class _Search:
    def __init__(self, search_path: Sequence[str]) -> None:
        self.search_path = list(search_path)
        self.folder = Path(self.search_path[0]).resolve() if self.search_path else None

    def problem(self, target: str) -> str | None:
        module_path, colon, attributes = target.partition(":")
        parts = module_path.split(".")
        spec = self.find(parts[0], None)
        if spec is None:
            return self.unknown_top(parts[0])
        size = 1
        chain = [spec]
        while size < len(parts) and (inner := self.find(".".join(parts[: size + 1]), spec)):
            spec, size = inner, size + 1
            chain.append(spec)
        for step in chain:
            if reason := self.broken_import(step):
                return reason
        names = parts[size:] + (attributes.split(".") if attributes else [])
        if not names:
            return f"{target} is a module; name a callable in it: {target}:NAME"
        if colon and size < len(parts):
            return self.unknown_submodule(spec, ".".join(parts[: size + 1]))
        return self.unknown_name(spec, names[0])

    def find(self, name: str, parent: ModuleSpec | None) -> ModuleSpec | None:
        if parent is not None:
            locations = parent.submodule_search_locations
            return PathFinder.find_spec(name, list(locations)) if locations else None
        found = PathFinder.find_spec(name, self.search_path)
        if found is not None:
            return found
        for finder in sys.meta_path:  # built-in modules, and editable installs
            found = finder.find_spec(name, None)
            if found is not None:
                return found
        return None

    def unknown_top(self, name: str) -> str:
        known = {module.name for module in pkgutil.iter_modules(self.search_path)}
        hint = suggestion(name, known) or suggestion(name, sys.stdlib_module_names)
        return f"no module named {name!r} beside the spec or installed{hint}"

    def unknown_submodule(self, package: ModuleSpec, path: str) -> str | None:
        """A package may add modules to `sys.modules` itself, as `os` does with `os.path`."""
        locations = package.submodule_search_locations or []
        inner = closest(path.rpartition(".")[2], [m.name for m in pkgutil.iter_modules(locations)])
        source = self.source(package)
        if not inner and (path in sys.modules or source is None or source.dynamic):
            return None
        hint = f"; did you mean '{package.name}.{inner}'?" if inner else ""
        return f"no module named {path!r}{hint}"

    def unknown_name(self, spec: ModuleSpec, name: str) -> str | None:
        locations = spec.submodule_search_locations or []
        if any(module.name == name for module in pkgutil.iter_modules(locations)):
            return None
        if spec.origin is None and locations:
            return f"{spec.name!r} is a folder without an __init__.py, so it has no {name!r}"
        source = self.source(spec)
        if source is None or source.defines(name):
            return None
        names = self.names(spec, source, depth=3)
        if names is None or name in names:
            return None
        return f"{self.label(spec)} has no {name!r}{suggestion(name, names)}"

    def names(self, spec: ModuleSpec, source: Source, *, depth: int) -> set[str] | None:
        """The names at the module's top level; `None`: only running it would tell."""
        if source.dynamic or source.error:
            return None
        names = set(source.names)
        for star in source.stars(package=spec.parent or ""):
            inner = self.locate(star) if depth else None
            inner_source = self.source(inner) if inner else None
            if inner is None or inner_source is None:
                return None
            inner_names = self.names(inner, inner_source, depth=depth - 1)
            if inner_names is None:
                return None
            names |= inner_names
        return names

    def locate(self, module: str) -> ModuleSpec | None:
        spec: ModuleSpec | None = None
        parts = module.split(".")
        for size in range(1, len(parts) + 1):
            spec = self.find(".".join(parts[:size]), spec)
            if spec is None:
                return None
        return spec

    def source(self, spec: ModuleSpec) -> Source | None:
        """The module's Python text; `None`: it is built in, compiled or inside an archive."""
        path = Path(spec.origin or "")
        return Source(path.read_bytes()) if path.suffix == ".py" and path.is_file() else None

    def label(self, spec: ModuleSpec) -> str:
        own = self.own_file(spec)
        return str(own) if own else spec.name

    def own_file(self, spec: ModuleSpec) -> Path | None:
        """The file's path below the person's folder, unless it is an installed package's."""
        if self.folder is None or spec.origin is None:
            return None
        top = PathFinder.find_spec(spec.name.partition(".")[0], self.search_path[:1])
        path = Path(spec.origin).resolve()
        if top is None or not path.is_relative_to(self.folder):
            return None
        return path.relative_to(self.folder)

    def broken_import(self, spec: ModuleSpec) -> str | None:
        """A syntax error or an absent package in the person's modules that `spec` loads."""
        pending, seen = [spec], set()
        while pending:
            spec = pending.pop()
            own = self.own_file(spec)
            source = self.source(spec) if own else None
            if source is None or own in seen or source.extends_path:
                continue
            seen.add(own)
            if source.error:
                return f"{own}:{source.error}"
            for line, name in source.packages_needed():
                needed = self.find(name, None)
                if needed is None:
                    return f"{own}:{line} imports {name!r}, which is not installed"
                pending.append(needed)
        return None
