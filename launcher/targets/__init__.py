"""How an import path becomes a callable, and a callable with its arguments an object.

Finding what is wrong with a path without importing it is done in `static`.
"""

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from launcher.errors import SpecError
from launcher.targets.static import closest, find_problem, suggestion

__all__ = ["TargetError", "load", "build", "is_call", "is_path", "find_problem", "closest"]

CALL_KEYS = {"target", "args"}


class TargetError(SpecError):
    """A target cannot be imported, or does not take the arguments it was given."""


def load(target: str) -> Any:
    """Import what `package.module:name.attr` or `package.module.name.attr` stands for."""
    module_path, colon, attributes = target.partition(":")
    try:
        found, names = _import(module_path, exact=bool(colon))
        names += attributes.split(".") if attributes else []
        if not names:
            raise TargetError(f"{target} is a module; name a callable in it: {target}:NAME")
        for name in names:
            found = _attribute(found, name, target=target)
    except TargetError:
        raise
    except Exception as exc:
        raise TargetError(
            f"{target} cannot be imported: {type(exc).__name__}: {exc}{_place(exc)}"
        ) from exc
    return found


def build(target: str, args: Mapping[str, Any]) -> Any:
    """Call the target with `args`, whose `{target, args}` values are built first, at any depth."""
    if not isinstance(args, Mapping):
        raise TargetError(f"args of {target} must be a mapping, not a {type(args).__name__}")
    function = load(target)
    if not callable(function):
        raise TargetError(f"{target} is a {type(function).__name__}, not a callable")
    kwargs = {key: _built(value) for key, value in args.items()}
    _check_arguments(function, kwargs, target=target)
    return function(**kwargs)


def is_call(value: Any) -> bool:
    """Whether `build` builds this argument value before it passes it on."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("target"), str)
        and value.keys() <= CALL_KEYS
    )


def is_path(text: str) -> bool:
    """Whether this is an import path by its form."""
    names = text.replace(":", ".", 1).split(".")
    return all(name.isidentifier() for name in names)


def _built(value: Any) -> Any:
    if is_call(value):
        return build(value["target"], value.get("args", {}))
    if isinstance(value, dict):
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_built(item) for item in value]
    return value


def _import(path: str, *, exact: bool) -> tuple[Any, list[str]]:
    """The longest prefix of `path` that is a module, and the names that remain."""
    parts = path.split(".")
    for size in range(len(parts), 0, -1):
        module = ".".join(parts[:size])
        try:
            return importlib.import_module(module), parts[size:]
        except ModuleNotFoundError as exc:
            absent = exc.name and f"{module}.".startswith(f"{exc.name}.")
            if exact or size == 1 or not absent:
                raise
    raise AssertionError("a path has at least one part")


def _attribute(owner: Any, name: str, *, target: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as exc:
        described = f"{type(owner).__name__} {getattr(owner, '__name__', owner)!r}"
        hint = suggestion(name, dir(owner))
        raise TargetError(f"{target} cannot be found: {described} has no {name!r}{hint}") from exc


def _place(exc: Exception) -> str:
    """Where in the person's own code the import failed, as ` (file:line)`."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f" ({exc.filename}:{exc.lineno})"
    machinery = ("<", __file__, importlib.__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith(machinery)
    ]
    installed = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))
    own = [frame for frame in frames if not frame.filename.startswith(installed)]
    chosen = (own or frames)[-1:]
    return "".join(f" ({frame.filename}:{frame.lineno})" for frame in chosen)


def _check_arguments(
    function: Callable[..., Any], kwargs: Mapping[str, Any], *, target: str
) -> None:
    """Refuse arguments that the signature has no place for; a decorator hides the signature."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return
    try:
        signature.bind(**kwargs)
    except TypeError as exc:
        words = _mismatch(signature.parameters.values(), kwargs) or str(exc)
        raise TargetError(f"{target} {words}") from exc


def _mismatch(parameters: Iterable[inspect.Parameter], kwargs: Mapping[str, Any]) -> str:
    keywords = {
        p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    unexpected = [name for name in kwargs if name not in keywords]
    missing = [n for n, p in keywords.items() if p.default is p.empty and n not in kwargs]
    words = [f"has no argument {n!r}{suggestion(n, keywords)}" for n in unexpected]
    words += [f"needs the argument {n!r}" for n in missing]
    return "; ".join(words)
