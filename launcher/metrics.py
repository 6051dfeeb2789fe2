"""`metrics.jsonl`: one row for each logged step, strictly increasing, also across restarts.

Averages over ranks are made by the journal of the loop; other sinks follow this file.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from launcher import rundir, storage
from launcher.growing import as_json, lines_of
from launcher.rundir import RunDir

PLACES = ("step", "epoch", "time")
"""The fields of a row that are not metrics."""


class JsonlSink:
    """Appends rows to the run's metrics file."""

    def __init__(self, run_dir: RunDir) -> None:
        path = run_dir.local(rundir.METRICS)
        with storage.storage_errors(str(path)):
            self._file = path.open("ab", buffering=0)

    def log(self, row: Mapping[str, float]) -> None:
        """Writes the row; a value that is not finite, which JSON has no word for, as null."""
        values = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with storage.storage_errors(rundir.METRICS):
            storage.append_line(self._file, values)

    def close(self) -> None:
        with storage.storage_errors(rundir.METRICS):
            os.fsync(self._file.fileno())
            self._file.close()


class NullSink:
    """For the ranks that do not write."""

    def log(self, row: Mapping[str, float]) -> None:
        """Other ranks hold the same numbers; rank 0 writes them."""

    def close(self) -> None:
        """Nothing was opened."""


def rewind(run_dir: RunDir, *, step: int) -> None:
    """Cuts off rows of later steps, which a restart repeats, and a line cut short by a crash.

    The shorter file takes the place of the old one, so that a follower sees that it was replaced.
    The rows that count are those that others see: a host that is lost may have had more.
    """
    try:
        lines = run_dir.stored.read(rundir.METRICS).splitlines(keepends=True)
    except FileNotFoundError:
        lines = []
    kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        run_dir.stored.write(rundir.METRICS, b"".join(kept))
    if run_dir.folder:
        run_dir.write(rundir.METRICS, b"".join(kept))


def complete(run_dir: RunDir) -> None:
    """Brings rows to the run's URL that only its folder has, once no rank writes any."""
    if not run_dir.folder:
        return
    own, stored = (list(place.read_lines(rundir.METRICS)) for place in (run_dir, run_dir.stored))
    if len(own) > len(stored):
        run_dir.bring(rundir.METRICS)


class Follower:
    """The rows of a growing `metrics.jsonl`, each step's once, also after a restart cut it back."""

    def __init__(self, run_dir: RunDir, *, after_step: int = 0) -> None:
        self._lines = lines_of(run_dir, rundir.METRICS)
        self._step = after_step

    def new_rows(self) -> Iterator[dict[str, Any]]:
        """The complete rows that came since the last call."""
        for row in as_json(self._lines):
            if row["step"] > self._step:
                self._step = row["step"]
                yield row

    def close(self) -> None:
        self._lines.close()


class Tally:
    """Where a run stands, read from its rows."""

    def __init__(self) -> None:
        self.step = 0
        self.epoch = 0
        self.metrics: dict[str, float | None] = {}
        """The newest value of each metric."""

    def add(self, row: Mapping[str, Any]) -> None:
        self.step, self.epoch = row["step"], row["epoch"]
        self.metrics.update({k: v for k, v in row.items() if k not in PLACES})
