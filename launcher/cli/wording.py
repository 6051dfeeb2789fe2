"""Words for people: rows, events and outcomes as lines of text. Prints nothing itself."""

from collections.abc import Mapping
from typing import Any

from launcher.outcome import Failure, Outcome

_ROW_PLACES = ("step", "epoch", "time")


def values_text(row: Mapping[str, Any]) -> str:
    """`epoch=2 loss=0.41 lr=0.003 ...`."""
    values = {name: value for name, value in row.items() if name not in _ROW_PLACES}
    shown = [f"epoch={row['epoch']}", *(f"{name}={value:.4g}" for name, value in values.items())]
    return " ".join(shown)


def event_text(event: Mapping[str, Any]) -> str:
    """One line for a person, empty for what only the record needs."""
    match event:
        case {"event": "attempt", "checkpoint": str(name), "attempt": number} if name:
            return f"attempt {number} goes on from {name}"
        case {"event": "passed_over", "reason": reason}:
            return f"passed over: {reason}"
        case {"event": "failure", "restart": True, "message": message, "reason": reason}:
            return f"failed: {message} ({reason})"
        case _:
            return ""


def outcome_text(outcome: Outcome) -> str:
    """The end of a run, with what failed and the command that goes on."""
    lines = [f"{outcome.status} at step {outcome.step}, epoch {outcome.epoch}"]
    measured = {k: v for k, v in outcome.metrics.items() if k == "loss" or k.startswith("eval_")}
    if measured:
        lines[0] += ": " + " ".join(f"{name}={value:.4g}" for name, value in measured.items())
    if outcome.error:
        lines.extend(failure_lines(outcome.error))
    if outcome.checkpoint:
        lines.append(f"checkpoint {outcome.checkpoint}")
    if outcome.status != "succeeded":
        lines.append(f"logs: launcher logs {outcome.run_id} --rank {_guilty(outcome)}")
        lines.append(f"go on: launcher resume {outcome.run_id}")
    return "\n".join(lines)


def failure_lines(failure: Failure) -> list[str]:
    """What went wrong, the guilty rank's last words first."""
    plain = failure.kind in ("spec", "storage", "diverged")
    words = [] if plain else ["  " + line for line in failure.traceback.splitlines()[-20:]]
    return [*words, f"error: {failure.message}"]


def _guilty(outcome: Outcome) -> int:
    return outcome.error.rank if outcome.error else 0
