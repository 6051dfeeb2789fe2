"""`metrics.jsonl`: one row for each logged step, strictly increasing, also across restarts.

Averages over ranks are made by the journal of the loop; other sinks follow this file.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from launcher import rundir
from launcher.rundir import RunDir

PLACES = ("step", "epoch", "time")
"""The fields of a row that are not metrics."""


class JsonlSink:
    """Appends rows to the run's metrics file."""

    def __init__(self, run_dir: RunDir) -> None:
        path = run_dir.local(rundir.METRICS)
        with rundir.storage_errors(str(path)):
            self._file = path.open("ab", buffering=0)

    def log(self, row: Mapping[str, float]) -> None:
        """Writes the row; a value that is not finite, which JSON has no word for, as null."""
        values = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with rundir.storage_errors(rundir.METRICS):
            rundir.append_line(self._file, values)

    def close(self) -> None:
        with rundir.storage_errors(rundir.METRICS):
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
    """
    try:
        lines = run_dir.read(rundir.METRICS).splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        run_dir.write(rundir.METRICS, b"".join(kept))


class Lines:
    """The lines of a growing file, each once; a file put in its place is read from its start."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.rest = b""
        """What came after the last complete line."""
        if from_end and path.exists():
            self._file = path.open("rb")
            self._file.seek(0, os.SEEK_END)

    def new(self) -> Iterator[bytes]:
        """The complete lines that came since the last call."""
        try:
            current = self._path.stat()
        except FileNotFoundError:
            return
        if self._file is None or os.fstat(self._file.fileno()).st_ino != current.st_ino:
            self.close()
            self._file, self.rest = self._path.open("rb"), b""
        *lines, self.rest = (self.rest + self._file.read()).split(b"\n")
        yield from lines

    def new_json(self) -> Iterator[dict[str, Any]]:
        """The same, read as JSON."""
        yield from map(json.loads, self.new())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Follower:
    """The rows of a growing `metrics.jsonl`, each step's once, also after a restart cut it back."""

    def __init__(self, path: Path, *, after_step: int = 0) -> None:
        self._lines = Lines(path)
        self._step = after_step

    def new_rows(self) -> Iterator[dict[str, Any]]:
        """The complete rows that came since the last call."""
        for row in self._lines.new_json():
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
