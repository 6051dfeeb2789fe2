"""Decides whether a failed run starts again. Sleeping and restarting are the driver's work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.outcome import Failure, Kind
from launcher.plan import Retries

Budget = Literal["node_loss", "crash", "hang"]

_BUDGETS: dict[Kind, Budget] = {
    "lost": "node_loss",
    "user_code": "crash",
    "out_of_memory": "crash",
    "hang": "hang",
}


@dataclass(frozen=True)
class Failed:
    """One attempt that failed."""

    failure: Failure
    start_step: int
    """The step of the checkpoint that it went on from."""
    end_step: int
    """The last step that it did."""


@dataclass(frozen=True)
class Verdict:
    """Whether to start again, and why."""

    restart: bool
    reason: str


def decide(failed: Sequence[Failed], retries: Retries) -> Verdict:
    """The verdict on the last of a run's failed attempts, in the light of those before it."""
    last = failed[-1]
    kind = last.failure.kind
    budget = _BUDGETS.get(kind)
    if budget is None:
        return Verdict(restart=False, reason=f"a failure of kind {kind} would only happen again")
    if kind != "lost":
        if last.end_step <= last.start_step:
            return Verdict(restart=False, reason="it failed at its start")
        if any(_same(last, earlier) for earlier in failed[:-1]):
            return Verdict(restart=False, reason=f"it failed at step {last.end_step} before")
    used = sum(_BUDGETS.get(each.failure.kind) == budget for each in failed)
    allowed: int = getattr(retries, budget)
    if used > allowed:
        return Verdict(restart=False, reason=f"retries.{budget} is {allowed}, and all are used")
    return Verdict(restart=True, reason=f"restart {used} of {allowed} for {budget}")


def _same(one: Failed, other: Failed) -> bool:
    return one.end_step == other.end_step and one.failure.message == other.failure.message
