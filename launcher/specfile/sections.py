"""Which section, and so which keys, stand at each place of a job spec.

What is said about a key that has no place there is worded in `wording`.
"""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from launcher.spec import ImportPath, JobSpec, Key, Section, Shorthand, Target
from launcher.targets import is_call


def _options(annotation: Any) -> Iterator[Any]:
    """The types that a field allows, one by one."""
    if get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            yield from _options(option)
    elif get_origin(annotation) is Annotated:
        yield from _options(get_args(annotation)[0])
    else:
        yield annotation


def _section(annotation: Any) -> type[Section] | None:
    classes = (option for option in _options(annotation) if isinstance(option, type))
    return next((option for option in classes if issubclass(option, Section)), None)


def _items(annotation: Any) -> Any:
    """What a list's items are; `None` where no list may stand."""
    lists = (option for option in _options(annotation) if get_origin(option) is list)
    return next((get_args(option)[0] for option in lists), None)


def _annotation(key: Key) -> Any:
    annotation: Any = JobSpec
    for part in key:
        section = _section(annotation)
        if isinstance(part, int):
            annotation = _items(annotation)
        elif section and part in section.model_fields:
            annotation = section.model_fields[part].annotation
        else:
            return None
    return annotation


def section_at(key: Key) -> type[Section] | None:
    """The section that stands at `key`, if one may."""
    return _section(_annotation(key))


def shorthand_at(key: Key) -> str | None:
    """The field that a bare string at `key` stands for."""
    section = section_at(key)
    if section is None or not issubclass(section, Shorthand):
        return None
    return next(iter(section.model_fields))


def is_list(key: Key) -> bool:
    """Whether a list may stand at `key`."""
    return _items(_annotation(key)) is not None


def is_free(key: Key) -> bool:
    """Whether `key` is or lies in a mapping of any keys, such as the arguments of a target."""
    annotations = (_annotation(key[:size]) for size in range(1, len(key) + 1))
    return any(get_origin(option) is dict for found in annotations for option in _options(found))


def is_import_path(key: Key) -> bool:
    """Whether an import path alone stands at `key`, as in a list of them."""
    return bool(_annotation(key) == ImportPath)


def range_at(key: Key) -> tuple[int, int] | None:
    """The least and the largest number that may stand at `key`, where it has both."""
    limits = [
        limit
        for option in get_args(_annotation(key))
        for field in get_args(option)[1:]
        for limit in field.metadata
    ]
    least = [limit.ge for limit in limits if hasattr(limit, "ge")]
    largest = [limit.le for limit in limits if hasattr(limit, "le")]
    return (least[0], largest[0]) if least and largest else None


def is_known(key: Key) -> bool:
    """Whether a job spec may have this key."""
    return is_free(key) or _annotation(key) is not None


def fields() -> Iterator[Key]:
    """Every key of the sections that stand at one fixed place, targets left out."""
    pending: list[Key] = [()]
    while pending:
        key = pending.pop(0)
        section = section_at(key)
        if section is not None and not issubclass(section, Target):
            inner: list[Key] = [(*key, name) for name in section.model_fields]
            yield from inner
            pending += inner


def targets_in(data: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Every import path of a spec's data, whether or not the spec is valid."""
    section = section_at(key)
    if isinstance(data, str) and is_import_path(key):
        yield key, data
    elif isinstance(data, list):
        for index, item in enumerate(data):
            yield from targets_in(item, (*key, index))
    elif section is not None and issubclass(section, Target):
        if isinstance(data, str):
            yield key, data
        elif isinstance(data, dict):
            if isinstance(data.get("target"), str):
                yield (*key, "target"), data["target"]
            yield from _calls_in(data.get("args"), (*key, "args"))
    elif section is not None and isinstance(data, dict):
        for name, item in data.items():
            yield from targets_in(item, (*key, name))


def _calls_in(value: Any, key: Key) -> Iterator[tuple[Key, str]]:
    if is_call(value):
        yield (*key, "target"), value["target"]
        yield from _calls_in(value.get("args"), (*key, "args"))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _calls_in(item, (*key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _calls_in(item, (*key, index))
