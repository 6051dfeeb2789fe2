"""Which samples go into which step: pure functions of the seed, the epoch and the position.

Reading the samples is `loader`'s work. No process, rank or worker count enters the order, so a
run can go on with any of them changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from launcher.data.randomness import mix
from launcher.plan import Limit

_ORDER = 0x6F72646572  # keeps the order's seeds apart from the samples'


@dataclass(frozen=True)
class Position:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 1
    """The epoch that the next sample belongs to, from 1."""
    taken: int = 0
    """Samples of that epoch's order that are done."""
    samples: int = 0
    """Samples of the epoch; 0: not begun."""


@dataclass(frozen=True)
class GlobalStep:
    """One optimizer step: positions [first, end) of its epoch's order."""

    number: int
    epoch: int
    first: int
    end: int

    @property
    def samples(self) -> int:
        return self.end - self.first

    def part(self, *, rank: int, world_size: int) -> tuple[int, int]:
        """One rank's positions: parts differ by at most one sample, rank 0's is never empty."""
        return (
            self.first + -(-self.samples * rank // world_size),
            self.first + -(-self.samples * (rank + 1) // world_size),
        )


def slices(
    step: GlobalStep, *, rank: int, world_size: int, size: int
) -> list[tuple[int, int, int]]:
    """One rank's micro-batches of at most `size`: first and end position, and how many samples
    count.

    Every rank gets equally many, for the model may communicate in each: where a rank has fewer
    samples, the step's first one fills in and counts as none.
    """
    first, end = step.part(rank=rank, world_size=world_size)
    most = -(-step.samples // world_size)
    filled = [(at, min(at + size, end), min(size, end - at)) for at in range(first, end, size)]
    missing = -(-most // size) - len(filled)
    return filled + [(step.first, step.first + 1, 0)] * missing


def epoch_order(*, samples: int, seed: int, epoch: int) -> Tensor:
    """A permutation of range(samples), int64 of shape (samples,), on the CPU."""
    generator = torch.Generator().manual_seed(mix(_ORDER, seed, epoch))
    return torch.randperm(samples, generator=generator)


def global_steps(
    start: Position, *, samples: int, global_batch_size: int, limits: Sequence[Limit]
) -> Iterator[GlobalStep]:
    """The steps from a position to the first limit; the last of an epoch may be smaller."""
    step, epoch, taken = start.step, start.epoch, start.taken
    for _ in range(
        steps_left(start, samples=samples, global_batch_size=global_batch_size, limits=limits)
    ):
        if taken >= samples:
            epoch, taken = epoch + 1, 0
        step += 1
        end = min(taken + global_batch_size, samples)
        yield GlobalStep(number=step, epoch=epoch, first=taken, end=end)
        taken = end


def steps_left(
    start: Position, *, samples: int, global_batch_size: int, limits: Sequence[Limit]
) -> int:
    """Optimizer steps between a position and the first limit."""
    left = []
    for limit in limits:
        if limit.unit == "steps":
            left.append(limit.count - start.step)
        else:
            this_epoch = -(-max(0, samples - start.taken) // global_batch_size)
            whole_epochs = limit.count - start.epoch
            left.append(this_epoch + whole_epochs * -(-samples // global_batch_size))
    return max(0, min(left))
