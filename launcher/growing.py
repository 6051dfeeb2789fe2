"""Files that grow while they are read: their new lines, each once.

What the lines say is for those who ask.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from launcher import storage
from launcher.rundir import RunDir

_TAIL_BYTES = 64
_REMOTE_POLL_S = 2.0
_POLL_S = 0.2


class Lines(Protocol):
    """The lines of a growing file, each once; a file put in its place is read from its start."""

    rest: bytes
    """What came after the last complete line."""

    def new(self) -> Iterator[bytes]:
        """The complete lines that came since the last call."""

    def close(self) -> None: ...


def lines_of(run_dir: RunDir, name: str) -> Lines:
    """The lines of a file of a run, wherever it is."""
    if run_dir.is_local:
        return LocalLines(run_dir.local(name))
    return StoredLines(run_dir.path(name))


def poll_s(run_dir: RunDir) -> float:
    """How often it makes sense to look at a run that goes on."""
    return _POLL_S if run_dir.is_local else _REMOTE_POLL_S


def as_json(lines: Lines) -> Iterator[dict[str, Any]]:
    """The new lines, read as JSON."""
    yield from map(json.loads, lines.new())


class LocalLines:
    """Those of a file on this host."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.rest = b""
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

    def close(self) -> None:
        """Reads no more."""
        if self._file is not None:
            self._file.close()
            self._file = None


class StoredLines:
    """Those of a file at a URL, whose whole is replaced each time that it grows."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._read_bytes = 0
        self._tail = b""
        """The last bytes that were read: another file in its place ends otherwise there."""
        self.rest = b""

    def new(self) -> Iterator[bytes]:
        """The complete lines that came since the last call."""
        try:
            grown = self._grown()
        except FileNotFoundError:
            return
        self._read_bytes += len(grown)
        self._tail = (self._tail + grown)[-_TAIL_BYTES:]
        *lines, self.rest = (self.rest + grown).split(b"\n")
        yield from lines

    def _grown(self) -> bytes:
        size = storage.size(self._url)
        if size == self._read_bytes:
            return b""
        start = self._read_bytes - len(self._tail)
        content = storage.read(self._url, start=start) if size > start else b""
        if content.startswith(self._tail):
            return content[len(self._tail) :]
        self._read_bytes, self._tail, self.rest = 0, b"", b""
        return storage.read(self._url)

    def close(self) -> None:
        """Nothing is kept open."""
