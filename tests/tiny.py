"""The user's code of a tiny job: an MLP on made-up numbers, that misbehaves where it is told to.

`tests.job` copies it beside a spec; nothing here imports the launcher.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

FEATURES = 8
CLASSES = 4

_entered: list[int] = []
"""Indices of the samples that went forward since the last optimizer step of this process."""


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


class Samples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Triples of features (8,), float32, the sample's index and its label, int64 scalars.

    The features are scaled and shifted at random, by two generators.
    """

    def __init__(self, *, samples: int = 300, bad_index: int = -1) -> None:
        """Raises when it is asked for `bad_index`."""
        generator = torch.Generator().manual_seed(samples)
        self._features = torch.randn(samples, FEATURES, generator=generator)
        self._labels = (
            self._features @ torch.randn(FEATURES, CLASSES, generator=generator)
        ).argmax(1)
        self._bad_index = bad_index

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if index == self._bad_index:
            raise ValueError(f"sample {index} is unreadable")
        features = self._features[index] * random.uniform(0.5, 1.5) + 0.1 * torch.randn(FEATURES)
        return features, torch.tensor(index), self._labels[index]


class Net(nn.Module):
    """Features (B, 8) to scores (B, 4), with dropout and running statistics."""

    def __init__(
        self,
        *,
        forward_s: float = 0.0,
        ballast_mb: int = 0,
        trouble: dict[str, Any] | None = None,
    ) -> None:
        """Each training forward takes `forward_s` more; `ballast_mb` makes every save longer.

        `trouble` is `{what, forward, rank}`: what happens at this rank's n-th training forward.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(32, CLASSES)
        self.register_buffer("ballast", torch.rand(ballast_mb << 18))
        self._forward_s = forward_s
        self._trouble = trouble or {}
        self._forwards = 0

    def forward(self, features: Tensor, indices: Tensor) -> Tensor:
        scores = self.head(self.layers(features))
        if not self.training:
            return scores
        self._forwards += 1
        _entered.extend(indices.tolist())
        time.sleep(self._forward_s)
        if self._forwards == self._trouble.get("forward") and rank() == self._trouble["rank"]:
            return scores * _TROUBLES[self._trouble["what"]]()
        return scores


class RecordingAdamW(torch.optim.AdamW):
    """AdamW that writes a line for each step it finished: its number, rank and samples."""

    def __init__(self, params: Any, *, lr: float, record: str = "") -> None:
        super().__init__(params, lr=lr)
        self._record = record

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        if self._record and _entered:
            number = int(next(iter(self.state.values()))["step"])
            line = {"step": number, "rank": rank(), "indices": list(_entered)}
            with Path(self._record).open("ab", buffering=0) as file:
                file.write(json.dumps(line).encode() + b"\n")
        _entered.clear()
        return result


def _raise() -> float:
    print("about to raise")  # noqa: T201  # the test looks for it in the log
    raise RuntimeError("the weather is bad")


def _hang() -> float:
    while True:
        time.sleep(0.1)


def _killed() -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def _crash() -> float:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0.0


_TROUBLES: dict[str, Callable[[], float]] = {
    "raise": _raise,
    "hang": _hang,
    "nan": lambda: float("nan"),
    "exit": lambda: sys.exit(3),
    "os_exit": lambda: os._exit(0),
    "kill": _killed,
    "crash": _crash,
}
