"""A run as it goes on, on a person's terminal: a progress line, or plain lines when piped.

Everything goes to stderr; stdout is for data.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from launcher.cli.wording import event_text, values_text
from launcher.watch import Audience

_PLAIN_EVERY_S = 5.0


@contextmanager
def open_console(*, live: bool) -> Iterator[Audience]:
    """A live line on a terminal; plain lines when piped, or where a debugger may be at work."""
    if not (live and sys.stderr.isatty()):
        yield PlainConsole()
        return
    from launcher.cli.live import live_console  # a job on a cluster has no terminal, and no Rich

    with live_console() as console:
        yield console


class PlainConsole:
    """One line for an event; one for a row every few seconds, and for each evaluation."""

    def __init__(self) -> None:
        self._last_step = 0
        self._said_at = 0.0

    def log(self, row: Mapping[str, Any]) -> None:
        measured = any(name.startswith("eval_") for name in row)
        if measured or row["step"] == self._last_step or self._is_time():
            print(f"step {row['step']}/{self._last_step} {values_text(row)}", file=sys.stderr)  # noqa: T201

    def event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "training":
            self._last_step = event["last_step"]
        if text := event_text(event):
            print(text, file=sys.stderr)  # noqa: T201

    def printed(self, line: str) -> None:
        print(line, file=sys.stderr)  # noqa: T201

    def _is_time(self) -> bool:
        now = time.monotonic()
        due = now - self._said_at >= _PLAIN_EVERY_S
        if due:
            self._said_at = now
        return due
