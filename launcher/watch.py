"""Follows a run's files while it trains, for the person who watches and for the driver.

The same files are what a later `show` reads; nothing reaches a watcher by another way.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from launcher import rundir, storage
from launcher.contracts import StopRequest
from launcher.errors import StorageError
from launcher.growing import LocalLines, as_json
from launcher.metrics import Follower, Tally
from launcher.rundir import RunDir

T = TypeVar("T")

_POLL_S = 0.1


class Audience(Protocol):
    """Who watches a run while it goes on; called by one thread at a time."""

    def log(self, row: Mapping[str, Any]) -> None:
        """A new row of metrics."""

    def event(self, event: Mapping[str, Any]) -> None:
        """A new line of `events.jsonl`."""

    def printed(self, line: str) -> None:
        """A line that rank 0 printed."""


class Watch:
    """A thread that follows the files of a run, and passes on a wish to stop from outside."""

    def __init__(self, run_dir: RunDir, *, stop: StopRequest, audience: Audience) -> None:
        self._run_dir = run_dir
        self._stop = stop
        self._audience = audience
        self._read_old_rows()
        self._events = LocalLines(run_dir.local(rundir.EVENTS), from_end=True)
        self._output: LocalLines | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._thread.join()
        with contextlib.suppress(StorageError):  # what was read so far was passed on
            self.catch_up()
        self._rows.close()
        self._events.close()
        self._stop_following_output()

    def start_attempt(self, log: Path | None) -> None:
        """Reads the rows that the attempt goes on from; follows what its rank 0 prints, if asked.

        Called when `metrics.jsonl` was cut back to the checkpoint's step.
        """
        with self._lock:
            self._rows.close()
            self._read_old_rows()
            self._stop_following_output()
            self._output = LocalLines(log) if log else None

    def _stop_following_output(self) -> None:
        if self._output is not None:
            self._output.close()

    def _read_old_rows(self) -> None:
        self.tally = Tally()
        self._rows = Follower(self._run_dir)
        for row in self._rows.new_rows():
            self.tally.add(row)

    def catch_up(self) -> None:
        """Passes on everything that is there by now; StorageError when it cannot be read."""
        with self._lock, storage.reading_errors(str(self._run_dir.local())):
            for event in as_json(self._events):
                _tell(self._audience.event, event)
            for line in self._output.new() if self._output else ():
                _tell(self._audience.printed, line.decode(errors="replace"))
            for row in self._rows.new_rows():
                self.tally.add(row)
                _tell(self._audience.log, row)

    def _follow(self) -> None:
        while not self._closed.wait(_POLL_S):
            if self._run_dir.exists(rundir.STOP):
                self._stop.graceful.set()
            with contextlib.suppress(StorageError):  # a network file system may come back
                self.catch_up()


def _tell(listener: Callable[[T], None], news: T) -> None:
    """A run goes on when its terminal is closed, or the pipe that it prints to."""
    with contextlib.suppress(OSError):
        listener(news)
