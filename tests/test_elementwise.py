"""An optimizer that ZeRO may give slices to is told from one that looks at whole matrices."""

from typing import Any

import pytest
import torch
from torch import Tensor

from launcher.errors import SpecError
from launcher.plan import Call
from launcher.strategies.elementwise import require_elementwise


class NormedSGD(torch.optim.SGD):
    """Steps by gradients that are divided by the norm of each row."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad /= parameter.grad.norm(dim=-1, keepdim=True)
        return super().step(closure)


class LargestFirst(torch.optim.SGD):
    """Steps by gradients in the measure of the whole tensor, as LAMB and LARS do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad *= parameter.norm() / parameter.grad.norm()
        return super().step(closure)


class NoDecayForVectors(torch.optim.AdamW):
    """Two groups, by the dimensions of the parameters."""

    def __init__(self, params: Any, **more: Any) -> None:
        params = list(params)
        matrices = {"params": [p for p in params if p.dim() >= 2]}
        vectors = {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0}
        super().__init__([matrices, vectors], **more)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "RMSprop", "RAdam", "NAdam", "Rprop"]
)
def test_one_that_steps_number_by_number_is_taken(name: str) -> None:
    require_elementwise(Call(target=f"torch.optim:{name}", args={"lr": 0.1}), device=CPU)


@pytest.mark.parametrize("lr", [0.1, 1e-5])
def test_one_that_groups_by_shape_is_taken_whatever_its_learning_rate(lr: float) -> None:
    target = "tests.test_elementwise:NoDecayForVectors"
    require_elementwise(Call(target=target, args={"lr": lr, "weight_decay": 0.1}), device=CPU)


@pytest.mark.parametrize("lr", [0.1, 1e-5])
@pytest.mark.parametrize(
    "target",
    [
        "torch.optim:Adafactor",
        "torch.optim:Muon",
        "tests.test_elementwise:NormedSGD",
        "tests.test_elementwise:LargestFirst",
    ],
)
def test_one_that_looks_at_more_than_numbers_is_refused_with_what_to_do(
    target: str, lr: float
) -> None:
    with pytest.raises(SpecError, match=r"looks at whole matrices.*set strategy.zero_stage to 0"):
        require_elementwise(Call(target=target, args={"lr": lr}), device=CPU)


def test_one_that_cannot_be_tried_says_why() -> None:
    with pytest.raises(SpecError, match=r"LBFGS could not be tried.*closure"):
        require_elementwise(Call(target="torch.optim:LBFGS"), device=CPU)


def test_trying_one_draws_no_random_number_of_the_run() -> None:
    before: Tensor = torch.get_rng_state()
    require_elementwise(Call(target="torch.optim:AdamW"), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
