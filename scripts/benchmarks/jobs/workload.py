"""What both sides train: models, data, losses, and an optimizer that notes when a step ended."""

import functools
import os
import struct
import time
from typing import Any

import torch
from char_gpt import CharGPT, next_char_loss, text
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset


class StampedAdamW(torch.optim.AdamW):
    """AdamW that notes the end of each step in the file $BENCH_STAMPS.<rank>.

    Unix seconds, CPU seconds of this process, and its pid.
    """

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        os.write(_stamps(), struct.pack("ddq", time.time(), time.process_time(), os.getpid()))
        return result


@functools.cache
def _stamps() -> int:
    name = f"{os.environ['BENCH_STAMPS']}.{os.environ['RANK']}"
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def gpt() -> nn.Module:
    """The model of job_specs/char_gpt.yaml: 0.8 million parameters."""
    return CharGPT()


class HangingGPT(CharGPT):
    """Rank 1 never comes back from one of its forwards."""

    def __init__(self, at_forward: int) -> None:
        super().__init__()
        self._left = at_forward

    def forward(self, *inputs: Tensor) -> Any:
        self._left -= 1
        while self._left == 0 and os.environ["RANK"] == "1":
            time.sleep(1.0)
        return super().forward(*inputs)


def hanging_gpt(at_forward: int) -> nn.Module:
    """The same, with a hang in it."""
    return HangingGPT(at_forward)


def gpt_data() -> Dataset[Any]:
    """The data of job_specs/char_gpt.yaml: windows of 128 characters."""
    return text(split="train", block_size=128, stride=64)


gpt_loss = next_char_loss


def mlp() -> nn.Module:
    """12.6 million parameters: 50 MB, and 151 MB with the moments of AdamW."""
    hidden = [layer for _ in range(3) for layer in (nn.Linear(2048, 2048), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(2048, 10))


def mlp_data() -> Dataset[Any]:
    """1,024 random vectors (2048,) with labels in 0..9."""
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(1024, 2048, generator=random)
    return TensorDataset(vectors, torch.randint(10, (1024,), generator=random))


def mlp_loss(output: Tensor, label: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, label)
