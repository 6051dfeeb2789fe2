"""Real classes of few lines that stand at the seams, for tests in one process."""

from collections.abc import Mapping
from typing import Any


class ListSink:
    """A MetricSink that keeps its rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))

    def close(self) -> None:
        """Nothing was opened."""


class Silence:
    """An Audience that does not listen."""

    def log(self, row: Mapping[str, Any]) -> None:
        """A row."""

    def event(self, event: Mapping[str, Any]) -> None:
        """An event."""

    def printed(self, line: str) -> None:
        """A line."""
