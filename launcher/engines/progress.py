"""Whether the ranks of a host still move, by counters in memory shared with their parent.

What follows when they do not, on this host or on all, is decided in `coordination`.
"""

import mmap
import struct
import time

_SETTLING_BEATS = 8
"""Of the slowest rank: its first four steps, with compilation and the first batches of a loader."""
_SETTLING_S = 600.0
"""What a pause may take until then."""
_LEARNING_BEATS = 3
"""Pauses count from then on: those before tell of starting up, not of a step."""


class Progress:
    """One counter for each rank of this host, of the pieces of work that it has done."""

    def __init__(self, ranks: int, *, timeout_s: float, patience: float) -> None:
        """A standstill is no progress for `timeout_s`, or for `patience` times the longest pause
        that the ranks made of themselves, whichever is more."""
        self._memory = mmap.mmap(-1, 8 * ranks)
        self._format = struct.Struct(f"{ranks}Q")
        self._timeout_s = timeout_s
        self._patience = patience
        self._seen = self.counts()
        self._changed = time.monotonic()
        self._longest_pause_s = 0.0

    def beat(self, rank: int) -> None:
        """Called by a rank, the n-th of this host, after each piece of work."""
        count = struct.unpack_from("Q", self._memory, 8 * rank)[0]
        struct.pack_into("Q", self._memory, 8 * rank, count + 1)

    def counts(self) -> tuple[int, ...]:
        """Pieces of work done, by local rank."""
        return self._format.unpack_from(self._memory)

    def stalled(self, *, now: float) -> bool:
        """Whether no rank moved for too long. Until the first beat nothing counts."""
        counts = self.counts()
        if counts != self._seen or not any(counts):
            if min(counts) > _LEARNING_BEATS:
                self._longest_pause_s = max(self._longest_pause_s, now - self._changed)
            self._seen, self._changed = counts, now
        return now - self._changed >= self.limit_s

    @property
    def limit_s(self) -> float:
        """The pause that counts as a standstill now."""
        if self._patience == 0:
            return self._timeout_s
        if min(self._seen) < _SETTLING_BEATS:
            return max(self._timeout_s, _SETTLING_S)
        return max(self._timeout_s, self._patience * self._longest_pause_s)
