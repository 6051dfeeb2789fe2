"""A model and data small enough for unit tests, named by `target` like a user's."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


class Net(nn.Module):
    """(B, 4) -> (B, 2), with what makes a resume hard: dropout, buffers, tied weights."""

    def __init__(self, *, dropout: float = 0.5, tied: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        if tied:
            self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.second(torch.relu(self.first(x))))
        return self.head(self.dropout(hidden))  # type: ignore[no-any-return]


def linear() -> nn.Module:
    """(B, 4) -> (B, 2), without any randomness in the forward."""
    return nn.Linear(4, 2)


class Points(Dataset[tuple[Tensor, Tensor]]):
    """Sample i: a fixed point with random noise, and a class."""

    def __init__(self, samples: int = 22, *, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(3)
        self._x = torch.randn(samples, 4, generator=generator)
        self._noise = noise

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self._x[index]
        return x + self._noise * torch.randn(4), (x.sum() > 0).long()


def nan_loss(output: Tensor, label: Tensor) -> Tensor:
    """Not a number, with a gradient."""
    return nn.functional.cross_entropy(output, label) * float("nan")


def hits(output: Tensor, _label: Tensor) -> Tensor:
    """A metric that forgot to take the mean."""
    return output


class Regression:
    """A custom task: fits the sum of the inputs."""

    def build_model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def train_data(self) -> Dataset[Any]:
        return Points(16)

    def eval_data(self) -> Dataset[Any] | None:
        return Points(5)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, _ = batch
        return (model(x).squeeze(1) - x.sum(1)).square().mean()

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": self.loss(model, batch), "ones": torch.ones(())}
