"""What the loop is given: the optimizer steps of one rank, and their micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MicroBatch:
    """What goes through one forward on one rank."""

    batch: Any
    samples: int
    """0 where the step has fewer samples than ranks: the batch then only keeps ranks in step."""
    share: float
    """samples / samples of the whole step."""
    last: bool


@dataclass(frozen=True)
class Step:
    """One rank's part of one optimizer step."""

    number: int
    """Counts from 1 over the whole run."""
    epoch: int
    """Counts from 1."""
    position: int
    """Samples of the epoch's order taken once this step is done, over all ranks."""
    samples: int
    """Samples of this step over all ranks."""
    micro_batches: Iterator[MicroBatch]
