"""Rows of results: medians, spreads, paired ratios, the table and the JSON document.

How a value came about is the measuring modules' knowledge.
"""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from launcher.resources import this_host

_HEADINGS = ("what", "ours", "peer", "ratio", "goal", "met")


@dataclass(frozen=True)
class Row:
    """One comparison; value i of both sides comes from the same repetition."""

    name: str
    what: str
    unit: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    """Empty where the goal is a number of the unit, not a ratio."""
    peer_name: str
    goal: float | None = None
    """The largest ratio, or value where there is no peer, that is good; None: only told."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over the peer's, within each repetition, so that a machine's drift cancels."""
        return tuple(a / b for a, b in zip(self.ours, self.peer, strict=True)) if self.peer else ()

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return statistics.median(self.ratios or self.ours) <= self.goal


def document(rows: Sequence[Row], *, machine: dict[str, Any]) -> dict[str, Any]:
    """Every value of every repetition, as JSON."""
    return {
        "schema": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "rows": [
            {
                **asdict(row),
                "ratios": row.ratios,
                "median": {
                    name: statistics.median(values)
                    for name, values in (
                        ("ours", row.ours),
                        ("peer", row.peer),
                        ("ratio", row.ratios),
                    )
                    if values
                },
                "met": row.met,
            }
            for row in rows
        ],
    }


def machine() -> dict[str, Any]:
    """Where this was measured; the load average tells whether others were at work there."""
    host = this_host()
    return {
        "cpu": host.cpu_name,
        "cores": host.cores,
        "memory_gib": round(host.memory_bytes / 2**30, 1),
        "gpus": [gpu.name for gpu in host.gpus],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "load_average": os.getloadavg(),
    }


def table(rows: Sequence[Row], machine: dict[str, Any], *, date: str) -> str:
    """Medians, and in brackets the smallest and the largest value, in Markdown."""
    cells = [_HEADINGS, tuple("---" for _ in _HEADINGS), *map(_cells, rows)]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    where = (
        f"{date}, {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"load {machine['load_average'][0]:.1f}. Ratios are medians over repetitions, ours over "
        "the peer's within each."
    )
    return "\n".join([*lines, "", where])


def _cells(row: Row) -> tuple[str, ...]:
    met = {True: "yes", False: "NO", None: ""}[row.met]
    limit = "" if row.goal is None else f"<= {row.goal:g}{'' if row.peer else ' ' + row.unit}"
    return (
        f"{row.name}: {row.what}",
        _spread(row.ours, row.unit),
        f"{row.peer_name} {_spread(row.peer, row.unit)}" if row.peer else row.peer_name,
        _spread(row.ratios, ""),
        limit,
        met,
    )


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    middle = f"{statistics.median(values):.3g} {unit}".strip()
    return f"{middle} ({min(values):.3g}-{max(values):.3g})"
