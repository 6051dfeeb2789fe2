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


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "RMSprop", "RAdam", "NAdam", "Rprop"]
)
def test_one_that_steps_number_by_number_is_taken(name: str) -> None:
    require_elementwise(Call(target=f"torch.optim:{name}", args={"lr": 0.1}))


@pytest.mark.parametrize(
    "target", ["torch.optim:Adafactor", "tests.test_elementwise:NormedSGD", "torch.optim:Muon"]
)
def test_one_that_looks_at_rows_or_matrices_is_refused_with_what_to_do(target: str) -> None:
    with pytest.raises(SpecError, match=r"looks at whole matrices.*set strategy.zero_stage to 0"):
        require_elementwise(Call(target=target, args={"lr": 0.1}))


def test_trying_one_draws_no_random_number_of_the_run() -> None:
    before: Tensor = torch.get_rng_state()
    require_elementwise(Call(target="torch.optim:AdamW"))
    assert torch.equal(torch.get_rng_state(), before)
