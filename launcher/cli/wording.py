"""Words for people: rows, events and outcomes as lines of text. Prints nothing itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from launcher.metrics import PLACES
from launcher.outcome import Failure, Outcome
from launcher.rundir import RunDir

_EVENT_DETAILS = (
    "attempt",
    "engine",
    "step",
    "last_step",
    "checkpoint",
    "kind",
    "message",
    "reason",
)


def values_text(row: Mapping[str, Any]) -> str:
    """`epoch=2 loss=0.41 lr=0.003 ...`."""
    values = {name: value for name, value in row.items() if name not in PLACES}
    shown = [
        f"epoch={row['epoch']}",
        *(f"{name}={_number(value)}" for name, value in values.items()),
    ]
    return " ".join(shown)


def event_text(event: Mapping[str, Any]) -> str:
    """One line for a person, empty for what only the record needs."""
    match event:
        case {"event": "attempt", "checkpoint": str(name), "attempt": number} if name:
            return f"attempt {number} goes on from {name}"
        case {"event": "passed_over", "reason": reason}:
            return f"passed over: {reason}"
        case {"event": "waiting" | "moving" | "unfit" | "not_stored" as what, "reason": reason}:
            return f"{what.replace('_', ' ')}: {reason}"
        case {"event": "failure", "restart": True, "message": message, "reason": reason}:
            return f"failed: {message} ({reason})"
        case _:
            return ""


def outcome_text(outcome: Outcome, *, seen_rank: int | None = None) -> str:
    """The end of a run, with what failed and the command that goes on.

    `seen_rank` is the rank whose output the person has seen already: it is not repeated.
    """
    lines = [f"{outcome.run_id} {outcome.status} at step {outcome.step}, epoch {outcome.epoch}"]
    if measured := measured_text(outcome.metrics):
        lines[0] += f": {measured}"
    if outcome.error:
        if outcome.error.rank != seen_rank:
            lines.extend("  " + line for line in outcome.error.traceback.splitlines()[-20:])
        lines.append(f"error: {outcome.error.message}")
    if outcome.checkpoint:
        lines.append(f"checkpoint {outcome.checkpoint}")
    run = RunDir(outcome.run_dir).reference
    if outcome.status in ("failed", "stopped", "lost"):
        lines.append(f"logs: launcher logs {run} --rank {_guilty(outcome)}")
    if outcome.status in ("stopped", "lost") or (outcome.error and _can_change(outcome.error)):
        lines.append(f"go on: launcher resume {run}")
    return "\n".join(lines)


def _can_change(failure: Failure) -> bool:
    """Whether the same command could do better."""
    return failure.kind not in ("spec", "preflight", "bug")


def _guilty(outcome: Outcome) -> int:
    return outcome.error.rank if outcome.error else 0


def measured_text(metrics: Mapping[str, float | None]) -> str:
    """Loss and evaluation, without the rest."""
    shown = {k: v for k, v in metrics.items() if k == "loss" or k.startswith("eval_")}
    return " ".join(f"{name}={_number(value)}" for name, value in shown.items())


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def history_text(document: Mapping[str, Any]) -> str:
    """What was decided for a run, and what happened in it."""
    decisions = [
        (decision["key"], str(decision["value"]), decision["reason"])
        for decision in (document["plan"] or {}).get("decisions", ())
    ]
    events = [
        (
            datetime.fromtimestamp(event["time"]).strftime("%F %T"),
            event["event"],
            " ".join(f"{k}={v}" for k, v in event.items() if k in _EVENT_DETAILS and v != ""),
        )
        for event in document["events"]
    ]
    parts: list[tuple[str, Sequence[Sequence[str]]]] = [
        ("made of", _record_rows(document["record"] or {})),
        ("time, in seconds", _spent_rows(document["spent"])),
        ("decided", decisions),
        ("events", events),
    ]
    return "\n".join(f"\n{title}\n{columns(rows)}" for title, rows in parts if rows)


def _record_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Code, versions and host, for a person; the rest is in `-o json`."""
    versions = " ".join(f"{k}={v}" for k, v in record.get("versions", {}).items())
    known = {
        "code": record.get("code_dir", ""),
        "commit": record.get("git", {}).get("commit", ""),
        "changed": "yes, see record.json" if record.get("git", {}).get("diff") else "",
        "versions": versions,
        "hosts": " ".join(host["host"] for host in record.get("hosts", ())),
    }
    return [(name, value) for name, value in known.items() if value]


def _spent_rows(attempts: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    if not attempts:
        return []
    heads = [name.removesuffix("_s").replace("_", " ") for name in attempts[0]]
    rows = [
        [f"{v:.1f}" if isinstance(v, float) else str(v) for v in attempt.values()]
        for attempt in attempts
    ]
    return [tuple(heads), *(tuple(row) for row in rows)]


def _number(value: float | None) -> str:
    if value is None:
        return "not-finite"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
