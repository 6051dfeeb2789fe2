"""Measures the evaluation data: every sample counts once, whatever the number of ranks.

When that is due is the loop's knowledge; what is measured, the task's.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from launcher.contracts import Strategy, Task
from launcher.data.loader import EvalBatches
from launcher.data.randomness import mix, seed_rank
from launcher.distributed import Rank, all_reduce_sum, broadcast_buffers
from launcher.plan import RunPlan


class Evaluation:
    """Runs the task's evaluation over one rank's share, and averages over all of them."""

    def __init__(
        self, dataset: Dataset[Any], *, task: Task, strategy: Strategy, plan: RunPlan, rank: Rank
    ) -> None:
        self._batches = EvalBatches(dataset, plan=plan, rank=rank)
        self._task = task
        self._strategy = strategy
        self._plan = plan
        self._rank = rank

    def rehearse(self) -> None:
        """Evaluates one batch, so that a metric that fails does so before training."""
        model = self._strategy.bare_model
        was_training = model.training
        model.eval()
        seed_rank(mix(self._plan.seed, self._rank.rank))
        try:
            with torch.no_grad(), self._strategy.precision():
                self._task.evaluate(model, self._batches.first())
        finally:
            model.train(was_training)

    def run(self, beat: Callable[[], None]) -> dict[str, float]:
        """`eval_loss` and the metrics, each the mean over all samples; called by every rank.

        `beat` is called after each batch.
        """
        model = self._strategy.bare_model
        was_training = model.training
        broadcast_buffers(model)
        model.eval()
        seed_rank(mix(self._plan.seed, self._rank.rank))
        try:
            means = self._measure(beat)
        finally:
            model.train(was_training)
        if self._plan.evaluation.perplexity:
            means["perplexity"] = math.exp(min(means["loss"], 700.0))
        return {f"eval_{name}": value for name, value in means.items()}

    def _measure(self, beat: Callable[[], None]) -> dict[str, float]:
        """Sums of value times samples, and of samples, over this rank and then over all."""
        sums: dict[str, Tensor] = {}
        count = torch.zeros((), dtype=torch.float64, device=self._rank.device)
        with torch.no_grad(), self._strategy.precision():
            for batch, samples in self._batches:
                means = self._task.evaluate(self._strategy.bare_model, batch)
                for name, mean in means.items():
                    mean = mean.detach().to(self._rank.device, torch.float64)
                    total = sums.get(name, torch.zeros_like(mean))
                    sums[name] = total + mean * samples if samples else total
                count += samples
                beat()
        names = sorted(sums)
        *totals, all_samples = all_reduce_sum(torch.stack([*(sums[name] for name in names), count]))
        return {name: total / all_samples for name, total in zip(names, totals, strict=True)}
