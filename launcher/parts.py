"""Puts together in rank 0's files what several ranks hold of a checkpoint's tensors.

Which parts those are is the strategies' knowledge; when they are saved, `saving`'s.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from launcher import rundir
from launcher.distributed import Rank, SideChannel
from launcher.tensor_files import Part, TensorFile

_CHUNK_BYTES = 1 << 25
"""So much of another rank's parts is in rank 0's memory at a time."""
Parts = dict[str, dict[str, Part]]
"""By file ("model", "optimizer") and name."""


@dataclass(frozen=True)
class Entry:
    """What is told of a part before its values are sent."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    count: int


class Courier:
    """Carries parts to rank 0, in a thread beside training. Every rank makes one."""

    def __init__(self, rank: Rank) -> None:
        self._channel = SideChannel()
        self._others = range(1, rank.world_size)

    def send(self, parts: Parts) -> None:
        """On other ranks than 0: sends what they hold, on the CPU."""
        text = json.dumps([[*vars(entry).values()] for entry in _entries(parts)]).encode()
        self._channel.send(torch.tensor([len(text)]), to=0)
        self._channel.send(torch.frombuffer(bytearray(text), dtype=torch.uint8), to=0)
        for entry in _entries(parts):
            for chunk in _chunks(parts[entry.file][entry.name].values):
                self._channel.send(chunk, to=0)

    def announced(self) -> dict[int, list[Entry]]:
        """On rank 0: what each other rank will send."""
        return {rank: self._announced(rank) for rank in self._others}

    def receive(self, rank: int, entry: Entry) -> Iterator[tuple[int, Tensor]]:
        """On rank 0: the values of one entry, in the order of `announced`, with their beginnings.

        A chunk is overwritten by the next one.
        """
        values = torch.empty(min(entry.count, _chunk_size(_dtype(entry))), dtype=_dtype(entry))
        for first in range(0, entry.count, max(1, len(values))):
            chunk = values[: entry.count - first]
            self._channel.receive(chunk, sender=rank)
            yield entry.begin + first, chunk

    def _announced(self, rank: int) -> list[Entry]:
        length = torch.zeros(1, dtype=torch.int64)
        self._channel.receive(length, sender=rank)
        text = torch.empty(int(length), dtype=torch.uint8)
        self._channel.receive(text, sender=rank)
        return [Entry(*values) for values in json.loads(bytes(text.tolist()))]


def write(folder: Path, own: Parts, courier: Courier | None) -> None:
    """Writes the files of rank 0's parts and, where there are any, of those of the others.

    OSError where the storage takes no more; SpecError for a dtype that no file can hold.
    """
    others = courier.announced() if courier else {}
    everything = [*_entries(own), *(entry for sent in others.values() for entry in sent)]
    _assert_whole(everything)
    with contextlib.ExitStack() as stack:
        files = {
            file: stack.enter_context(
                TensorFile(folder / rundir.tensor_file(file), _described(file, everything))
            )
            for file in own
        }
        for file, parts in own.items():
            for name, part in parts.items():
                files[file].write(name, part.values, begin=part.begin)
        for rank, entries in others.items():
            assert courier
            for entry in entries:
                for begin, chunk in courier.receive(rank, entry):
                    files[entry.file].write(entry.name, chunk, begin=begin)


def _assert_whole(everything: Sequence[Entry]) -> None:
    """That each tensor is covered once: a hole would be zeros, with a hash that is right."""
    covered: dict[tuple[str, str], int] = {}
    for entry in sorted(everything, key=lambda entry: entry.begin):
        place = (entry.file, entry.name)
        assert covered.setdefault(place, 0) == entry.begin, entry
        covered[place] += entry.count
    for entry in everything:
        assert covered[entry.file, entry.name] == math.prod(entry.shape), entry


def _entries(parts: Parts) -> Iterator[Entry]:
    for file, group in parts.items():
        for name, part in group.items():
            dtype = str(part.values.dtype).removeprefix("torch.")
            yield Entry(file, name, dtype, part.shape, part.begin, part.values.numel())


def _described(
    file: str, everything: Sequence[Entry]
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {e.name: (_dtype(e), tuple(e.shape)) for e in everything if e.file == file}


def _dtype(entry: Entry) -> torch.dtype:
    return getattr(torch, entry.dtype)  # type: ignore[no-any-return]


def _chunks(values: Tensor) -> Iterator[Tensor]:
    yield from values.flatten().split(_chunk_size(values.dtype)) if values.numel() else ()


def _chunk_size(dtype: torch.dtype) -> int:
    return _CHUNK_BYTES // dtype.itemsize
