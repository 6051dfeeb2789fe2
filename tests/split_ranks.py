"""One of two ranks with ZeRO 3: prints, as JSON, what is not as with whole weights.

`tests.integration.test_deepspeed` starts both: `python -m tests.split_ranks RANK STORE`.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.distributed import Rank, set_environment
from launcher.errors import PreflightError
from launcher.plan import Deepspeed
from launcher.strategies.deepspeed import DeepspeedStrategy
from launcher.strategies.deepspeed.building import in_shares
from launcher.strategies.deepspeed.room import require_room
from tests.plans import make_plan

CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
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
    """By `Module.apply`, with a layer that is frozen and a buffer in fp64."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
        self.layers[0].requires_grad_(False)
        self.register_buffer("third", torch.tensor([1.0], dtype=torch.float64) / 3)
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


class Vectors(nn.Module):
    """Two vectors: a rank's row of both halves is as long as either."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.arange(4.0))
        self.other = nn.Parameter(torch.arange(10.0, 14.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one + self.other


class Sometimes(nn.Module):
    """The second layer takes part in the first forward only."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.once = nn.Linear(4, 4), nn.Linear(4, 4)
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return self.always(x) + (self.once(x) if self.forwards == 1 else 0.0)


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


def strategy_of(build: Callable[[], nn.Module], rank: int) -> DeepspeedStrategy:
    plan = make_plan()
    device = torch.device("cpu")
    with in_shares(CONFIG):
        model = build()
    return DeepspeedStrategy(
        model,
        plan=plan,
        settings=Deepspeed(zero_stage=3, config=CONFIG),
        rank=Rank(rank=rank, world_size=2, local_rank=rank, local_world_size=2, device=device),
    )


def take_step(strategy: DeepspeedStrategy) -> None:
    with strategy.forward(last=True):
        strategy.backward(strategy.model(torch.ones(2, 4)).mean() / 2)
    strategy.update()


def parts_of_vectors(rank: int) -> dict[str, list[Any]]:
    """What this rank gives of each: where it begins, and its values before any step."""
    parts = strategy_of(Vectors, rank).tensors()["model"]
    return {name: [part.begin, part.values.tolist()] for name, part in parts.items()}


def moved_without_gradient(rank: int) -> bool:
    """Whether a layer that no later forward uses goes on moving."""
    strategy = strategy_of(Sometimes, rank)
    values = strategy.tensors()["model"]["once.weight"].values
    take_step(strategy)
    after_one = values.clone()
    take_step(strategy)
    return not torch.equal(values, after_one)


def refused_for_room() -> str:
    """What is said of 4 GB to be offloaded to a host that has 1 GB."""
    config = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    rank = Rank(rank=0, world_size=2, local_rank=0, local_world_size=1, device=torch.device("cpu"))
    model = nn.Linear(1 << 19, 1 << 10, bias=False, device="meta")
    require_room(config, model, rank=rank, host_memory_bytes=4 << 30)
    try:
        require_room(config, model, rank=rank, host_memory_bytes=1 << 30)
    except PreflightError as error:
        return str(error)
    return ""


def main(rank: int, store: str) -> None:
    """Both ranks do the same."""
    set_environment({"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"})
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    found = {
        "differing": {build.__name__: differing(build) for build in MODELS},
        "parts": parts_of_vectors(rank),
        "moved": moved_without_gradient(rank),
        "room": refused_for_room(),
    }
    print(json.dumps(found))  # noqa: T201  # its result


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
