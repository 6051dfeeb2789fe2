"""Every value of a spec that a person may set, and who set it: they, the planner, or nobody.

How the rows are laid out on a page is `specs`' knowledge.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launcher.cli.asking import Asked
from launcher.errors import SpecError
from launcher.plan import Decision
from launcher.spec import JobSpec, Key, Section, dotted
from launcher.specfile import Document
from launcher.specfile.sections import is_free, is_known, section_at
from launcher.targets import closest


@dataclass(frozen=True)
class Setting:
    """One value, under the key that `--set` takes."""

    key: Key
    value: Any
    """`None`: the run goes without."""
    by: Literal["given", "decided", "default"]
    detail: str = ""
    """Of a given value its place, of a decided one the reason."""

    @property
    def name(self) -> str:
        return dotted(self.key)

    @property
    def who(self) -> str:
        """`job.yaml:12:5`, `--set a.b=3`, `decided: <reason>` or `default`."""
        match self.by:
            case "given":
                return self.detail
            case "decided":
                return f"decided: {self.detail}"
            case "default":
                return self.by

    @property
    def shown(self) -> str:
        """The value as YAML would have it, on one line; `-` where there is none."""
        if self.value is None:
            return "-"
        plain = isinstance(self.value, str) and self.value.isprintable()
        return str(self.value) if plain else json.dumps(self.value, default=str)


def settings(asked: Asked) -> list[Setting]:
    """All of them, in the order of the sections."""
    spec = asked.document.spec
    assert spec is not None  # or there would be no plan
    decisions = {decision.key: decision for decision in asked.plan.decisions}
    found = _Walk(asked.document, decisions).section(JobSpec, spec, ())
    return [_with_storage(setting, asked.plan.storage) for setting in found]


def select(found: Sequence[Setting], name: str) -> list[Setting]:
    """Those at or below a key; of one that an absent section would have, the section's."""
    key: Key = tuple(int(part) if part.isdecimal() else part for part in name.split("."))
    below = [setting for setting in found if setting.key[: len(key)] == key]
    if not below and is_known(key) and not is_free(key):
        below = [setting for setting in found if key[: len(setting.key)] == setting.key]
    if below:
        return below
    near = closest(name, _names(found))
    hint = f"did you mean {near}?" if near else "without a key, `explain` lists them all"
    raise SpecError(f"{name} is no key of this spec; {hint}")


@dataclass(frozen=True)
class _Walk:
    document: Document
    decisions: Mapping[str, Decision]

    def section(self, kind: type[Section], given: Section | None, key: Key) -> Iterator[Setting]:
        """The settings of a section, written in the spec or not."""
        for name, field in kind.model_fields.items():
            value = getattr(given, name) if given else field.get_default(call_default_factory=True)
            written = given is not None and name in given.model_fields_set
            yield from self.below((*key, name), value, written=written and value is not None)

    def below(self, key: Key, value: Any, *, written: bool) -> Iterator[Setting]:
        """The settings of one key's value, down to what cannot be set in parts."""
        decision = self.decisions.get(dotted(key))
        absent = section_at(key) if value is None else None
        if decision:
            asked = f" ({self.document.origin(key)})" if written else ""
            yield Setting(key, decision.value, "decided", decision.reason + asked)
        elif isinstance(value, Section):
            yield from self.section(type(value), value, key)
        elif absent and not any(field.is_required() for field in absent.model_fields.values()):
            yield from self.section(absent, None, key)
        elif isinstance(value, dict | list) and value:
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for part, item in items:
                yield from self.below((*key, part), item, written=written)
        elif written:
            yield Setting(key, value, "given", self.document.origin(key))
        else:
            yield Setting(key, value, "default")


def _with_storage(setting: Setting, storage: str) -> Setting:
    """The one default that is not the spec's own."""
    unset = setting.key == ("storage",) and setting.value is None
    return Setting(setting.key, storage, "default") if unset else setting


def _names(found: Sequence[Setting]) -> list[str]:
    """The keys of these settings, and of the sections around them."""
    keys = (setting.key[:size] for setting in found for size in range(1, len(setting.key) + 1))
    return list(dict.fromkeys(dotted(key) for key in keys))
