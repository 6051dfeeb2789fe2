"""The progress line of a run on a terminal, redrawn by Rich; what to say is `wording`'s."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from launcher.cli.wording import event_text, values_text


@contextmanager
def live_console() -> "Iterator[LiveConsole]":
    """Shows the line until the body ends."""
    progress = Progress(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[values]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
    with progress:
        yield LiveConsole(progress)


class LiveConsole:
    """A progress line that is redrawn; events and evaluations stay above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        if self._task is None:
            return
        self._progress.update(self._task, completed=row["step"], values=values_text(row))
        if any(name.startswith("eval_") for name in row):
            self._print(f"step {row['step']} {values_text(row)}")

    def event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "training":
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(
                "", total=event["last_step"], completed=event["step"], values=""
            )
        if text := event_text(event):
            self._print(text)

    def printed(self, line: str) -> None:
        self._print(line)

    def _print(self, text: str) -> None:
        self._progress.console.print(text, markup=False)
