"""What a strategy gives to a checkpoint comes back bit for bit, whatever model and optimizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher import rundir
from launcher.contracts import Strategy
from launcher.data.order import Position
from launcher.distributed import Rank
from launcher.errors import SpecError
from launcher.plan import Ddp
from launcher.rundir import RunDir
from launcher.saving import Saver
from launcher.strategies.ddp import DdpStrategy
from tests.plans import make_plan

ALONE = Rank(rank=0, world_size=1, local_rank=0, local_world_size=1, device=torch.device("cpu"))


class Momentum(nn.Module):
    """A model with a copy of its layer that no optimizer has, as momentum encoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Linear(4, 2)
        self.slow = nn.Linear(4, 2).requires_grad_(False)
        self.words = nn.Embedding(3, 4, max_norm=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.online(x)  # type: ignore[no-any-return]


class Counting(nn.Module):
    """A layer whose extra state is no tensor."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.kept = kept

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class WideSGD(torch.optim.SGD):
    """Keeps a moment in another type than its parameter's, and counts steps in its groups."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            for p in group["params"]:
                self.state[p].setdefault("exact", torch.zeros_like(p, dtype=torch.float64))
                self.state[p]["exact"] += torch.pi
        return super().step(closure)


def strategy_of(model: nn.Module, optimizer: str = "torch.optim:SGD") -> DdpStrategy:
    plan = make_plan()
    train = plan.train.model_copy(
        update={"optimizer": plan.train.optimizer.model_copy(update={"target": optimizer})}
    )
    plan = plan.model_copy(update={"train": train})
    return DdpStrategy(model, plan=plan, ddp=Ddp(find_unused_parameters=False), rank=ALONE)


def saved(strategy: Strategy) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint would have of one rank that holds everything."""
    return {
        file: {name: part.values.detach().clone() for name, part in parts.items()}
        for file, parts in strategy.tensors().items()
    }


def take_step(strategy: Strategy) -> None:
    strategy.backward(strategy.model(torch.ones(1, 4)).sum())
    strategy.update()


def test_what_a_forward_may_change_is_copied_before_a_save_returns(tmp_path: Path) -> None:
    model = Momentum()
    strategy = strategy_of(model)
    assert strategy.volatile() == {"slow.weight", "slow.bias", "words.weight"}
    run_dir = RunDir(str(tmp_path))
    saver = Saver(strategy, run_dir, keep_last=1, rank=ALONE, at=Position())
    before = model.slow.weight.clone()
    saver.save(Position(step=1), lambda: None)
    model.slow.weight.zero_()
    saver.wait(lambda: None)
    saver.close()
    read = load_file(run_dir.local(rundir.checkpoint_name(1)) / rundir.tensor_file("model"))
    assert torch.equal(read["slow.weight"], before)


def test_extra_state_that_json_can_say_comes_back() -> None:
    strategy, fresh = strategy_of(Counting({"seen": [3]})), Counting({})
    scalars = json.loads(json.dumps(strategy.scalars()))
    strategy_of(fresh).load(saved(strategy), scalars)
    assert fresh.kept == {"seen": [3]}


def test_extra_state_that_no_checkpoint_can_hold_is_refused_at_the_start() -> None:
    with pytest.raises(SpecError, match="_extra_state is a set that a checkpoint cannot hold"):
        strategy_of(Counting({1}))


def test_an_optimizers_wider_moments_and_own_counters_come_back() -> None:
    target = "tests.test_strategies:WideSGD"
    torch.manual_seed(1)
    strategy = strategy_of(nn.Linear(4, 2), target)
    take_step(strategy)
    scalars = json.loads(json.dumps(strategy.scalars()))
    tensors = saved(strategy)
    resumed = strategy_of(nn.Linear(4, 2), target)
    resumed.load(tensors, scalars)
    for each in (strategy, resumed):
        take_step(each)
    theirs, ours = saved(strategy)["optimizer"], saved(resumed)["optimizer"]
    assert theirs["weight.exact"].dtype == ours["weight.exact"].dtype == torch.float64
    assert torch.equal(theirs["weight.exact"], ours["weight.exact"])
    assert resumed.scalars() == strategy.scalars()
    assert resumed.scalars()["optimizer_groups"] == [{"k": 2}]
