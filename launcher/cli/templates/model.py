"""Points on three spiral arms, and a small network that tells which arm a point lies on.

How the network is trained stands in job.yaml. Put your own in their place: a model is any callable
that returns an nn.Module, a dataset any callable that returns a Dataset.
"""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

ARMS = 3


class SpiralNet(nn.Module):
    """A network of fully connected layers."""

    def __init__(self, *, width: int = 64, depth: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [2] + [width] * depth
        hidden = [
            layer
            for inputs, outputs in itertools.pairwise(sizes)
            for layer in (nn.Linear(inputs, outputs), nn.SiLU(), nn.Dropout(dropout))
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, ARMS))

    def forward(self, points: Tensor) -> Tensor:
        """Points (B, 2) to logits (B, 3)."""
        logits: Tensor = self.layers(points)
        return logits


def spirals(
    *, split: Literal["train", "eval"], samples: int = 2560, noise: float = 0.1
) -> Dataset[tuple[Tensor, ...]]:
    """Pairs of a point (2,), float32, and the number of its arm, an int64 scalar in 0..2.

    The two splits are drawn from generators of their own, so that they are the same in every run.
    """
    generator = torch.Generator().manual_seed({"train": 0, "eval": 1}[split])
    arms = torch.arange(samples) % ARMS
    radii = torch.rand(samples, generator=generator).sqrt()
    turns = arms / ARMS + 0.75 * radii
    angles = 2 * math.pi * turns + noise * torch.randn(samples, generator=generator)
    points = radii[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
    return TensorDataset(points, arms)
