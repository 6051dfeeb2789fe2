"""Whether an optimizer may be given slices of tensors, as ZeRO gives them."""

import torch
from torch import Tensor, nn

from launcher.errors import SpecError
from launcher.plan import Call
from launcher.targets import build

_STEPS = 3
_SHAPE = (6, 4)


def require_elementwise(call: Call) -> None:
    """SpecError when the optimizer moves a matrix otherwise than the same numbers in a row."""
    as_matrix = _moved(call, flat=False)
    try:
        same = torch.allclose(as_matrix, _moved(call, flat=True), rtol=1e-4)
    except (ValueError, RuntimeError, TypeError, IndexError):  # it takes no row
        same = False
    if not same:
        raise SpecError(
            f"train.optimizer {call.target} looks at whole matrices, and ZeRO gives it slices: it "
            "would train something else; set strategy.zero_stage to 0, or take another optimizer"
        )


def _moved(call: Call, *, flat: bool) -> Tensor:
    """Where it takes made-up weights by made-up gradients, as one row."""
    numbers = torch.Generator().manual_seed(0)
    weights = torch.randn(_SHAPE, generator=numbers)
    parameter = nn.Parameter(weights.flatten() if flat else weights)
    optimizer = build(call.target, {"params": [parameter], **call.args})
    for _ in range(_STEPS):
        parameter.grad = torch.randn(_SHAPE, generator=numbers).view_as(parameter)
        optimizer.step()
    return parameter.detach().flatten()
