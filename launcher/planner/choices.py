"""Collects what was decided for the person, and why."""

from dataclasses import dataclass, field
from typing import TypeVar

from launcher.plan import Decision

T = TypeVar("T")


@dataclass
class Choices:
    """The decisions of one plan."""

    earlier: dict[str, Decision]
    """What was decided for this run before: a resumed run stays as it was."""
    made: list[Decision] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def take(self, key: str, given: T | None, default: T, reason: str) -> T:
        """The given value, or else the earlier decision, or else the default."""
        if given is not None:
            return given
        decision = Decision(key=key, value=default, reason=reason)
        if key in self.earlier:
            decision = self.earlier[key]
        self.made.append(decision)
        return decision.value  # type: ignore[no-any-return]
