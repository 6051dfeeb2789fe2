"""What a run says of its steps: averages over ranks, rows for the sink, and the vote to stop.

One small sum over all ranks a step carries the loss and the votes; it is read one step later, so
no step waits for it.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from launcher.contracts import MetricSink
from launcher.data.steps import Step
from launcher.distributed import PendingSum, all_reduce_async
from launcher.errors import DivergedError


@dataclass
class _Open:
    """A step whose sum is still under way."""

    step: Step
    sums: PendingSum
    logged: Mapping[str, float | Tensor]
    ended: float


class Journal:
    """The record of one attempt; every rank keeps one, rank 0's sink writes it.

    A tensor among the logged values is a float scalar, averaged over ranks.
    """

    def __init__(
        self,
        sink: MetricSink,
        *,
        stop_wanted: Callable[[], bool],
        world_size: int,
    ) -> None:
        self.stopping = False
        """Whether the ranks agreed to stop; the same on every rank at the same step."""
        self._sink = sink
        self._world_size = world_size
        self._stop_wanted = stop_wanted
        self._open: _Open | None = None
        self._last_end = time.perf_counter()

    def step(self, step: Step, *, loss: Tensor, logged: Mapping[str, float | Tensor]) -> None:
        """Takes a finished step, and writes the one before it.

        `loss` is this rank's share of the mean over the step's samples, a scalar.
        """
        vote = torch.full((), float(self._stop_wanted()), device=loss.device)
        measured = [value.detach() for value in logged.values() if isinstance(value, Tensor)]
        sums = all_reduce_async(torch.stack([loss.detach(), vote, *measured]).float())
        ahead = _Open(step=step, sums=sums, logged=logged, ended=time.perf_counter())
        self.settle()
        self._open = ahead

    def settle(self, extra: Mapping[str, float] | None = None) -> None:
        """Writes the newest step, together with what was measured after it."""
        if self._open is None:
            return
        open_, self._open = self._open, None
        loss, votes, *measured = open_.sums.result()
        step = open_.step
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of step {step.number} is {loss}")
        self.stopping = self.stopping or votes > 0
        values = {
            "loss": loss,
            **self._means(open_.logged, measured),
            "samples_per_s": step.samples / max(open_.ended - self._last_end, 1e-9),
            **(extra or {}),
        }
        self._last_end = open_.ended if extra is None else time.perf_counter()
        self._sink.log({"step": step.number, "epoch": step.epoch, "time": time.time(), **values})

    def _means(
        self, logged: Mapping[str, float | Tensor], measured: list[float]
    ) -> dict[str, float]:
        """Numbers as they are, tensors as the mean of their sum over ranks."""
        sums = iter(measured)
        return {
            name: next(sums) / self._world_size if isinstance(value, Tensor) else float(value)
            for name, value in logged.items()
        }
