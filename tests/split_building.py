"""A rank that builds models split and whole, and prints where their weights differ, as JSON.

`tests.integration.test_deepspeed` starts two of it: `python -m tests.split_building RANK STORE`.
"""

import json
import sys
from collections.abc import Callable

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from launcher.distributed import set_environment
from launcher.strategies.deepspeed.building import in_shares

CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


class ByData(nn.Module):
    """As Hugging Face's models set their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.layer.weight.data.normal_(std=0.02)
        self.layer.bias.data = torch.arange(3.0)


class ByViews(nn.Module):
    """A padding row is cleared, and one row is kept for later."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        row = self.words.weight.data[3]
        with torch.no_grad():
            self.words.weight[0].zero_()
        torch.manual_seed(torch.initial_seed() + 1)
        row.fill_(3.0)


class Tied(nn.Module):
    """Head and embedding are one parameter, scaled by its own norm."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight
        with torch.no_grad():
            self.words.weight /= self.words.weight.norm() * self.words.weight.shape[0]


class ByApply(nn.Module):
    """By `Module.apply`, with a layer that is frozen and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
        self.layers[0].requires_grad_(False)
        self.apply(self._set)

    def _set(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.constant_(module.bias, 0.5)


class Loaded(nn.Module):
    """Weights come from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.load_state_dict({"layer.weight": torch.ones(3, 2), "layer.bias": torch.zeros(3)})


MODELS: list[Callable[[], nn.Module]] = [ByData, ByViews, Tied, ByApply, Loaded]


def differing(build: Callable[[], nn.Module]) -> list[str]:
    """Names of the weights that are another number when the model is built split."""
    torch.manual_seed(5)
    whole = build().state_dict()
    torch.manual_seed(5)
    with in_shares(CONFIG):
        split = build()
    own = list(split.parameters())
    assert all(p.numel() == 0 for p in own), "a weight is not split"
    with deepspeed.zero.GatheredParameters(own):
        gathered = {name: value.clone() for name, value in split.state_dict().items()}
    return [name for name in whole if not torch.equal(whole[name], gathered[name])]


def main(rank: int, store: str) -> None:
    """Both ranks build every model."""
    set_environment({"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"})
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    found = {build.__name__: differing(build) for build in MODELS}
    print(json.dumps(found))  # noqa: T201  # its result


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
