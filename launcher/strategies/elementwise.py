"""Whether an optimizer may be given slices of tensors, as ZeRO gives them.

It is tried on made-up numbers: no list of names could know a person's own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from launcher.errors import SpecError
from launcher.plan import Call
from launcher.targets import build

_STEPS = 3
_SHAPE = (6, 4)
_CUT = 10
"""Elements in the first of two slices: not the half, and not a whole number of rows."""


def require_elementwise(call: Call, *, device: torch.device) -> None:
    """SpecError when the optimizer moves a matrix otherwise than two slices of it."""
    try:
        as_matrix = _movement(call, device, slices=False)
    except Exception as error:  # a person's code, which may say anything
        raise SpecError(
            f"train.optimizer {call.target} could not be tried on a matrix of {_SHAPE} ({error}): "
            "whether ZeRO may give it slices is not known; set strategy.zero_stage to 0"
        ) from error
    try:
        same = torch.allclose(as_matrix, _movement(call, device, slices=True), rtol=1e-3, atol=0)
    except Exception:  # noqa: BLE001  # it does not take a row
        same = False
    if not same:
        raise SpecError(
            f"train.optimizer {call.target} looks at whole matrices, and ZeRO gives it slices: it "
            "would train something else; set strategy.zero_stage to 0, or take another optimizer"
        )


def _movement(call: Call, device: torch.device, *, slices: bool) -> Tensor:
    """How far it takes made-up weights by made-up gradients, as one row, in fp64."""
    numbers = torch.Generator().manual_seed(0)
    start = torch.randn(_SHAPE, generator=numbers, dtype=torch.float64).to(device)
    optimizer, parameters = _prepared(call, start, slices=slices)
    for _ in range(_STEPS):
        gradient = torch.randn(_SHAPE, generator=numbers, dtype=torch.float64).to(device)
        for parameter, part in zip(parameters, _parts(gradient, slices=slices), strict=True):
            parameter.grad = part
        optimizer.step()
    end = torch.cat([parameter.detach().flatten() for parameter in parameters])
    return end - start.flatten()


def _prepared(call: Call, start: Tensor, *, slices: bool) -> tuple[Any, list[nn.Parameter]]:
    """The optimizer is made for the matrix, which then gives way to slices, as in ZeRO."""
    matrix = nn.Parameter(start.clone())
    optimizer = build(call.target, {"params": [matrix], **call.args})
    if not slices:
        return optimizer, [matrix]
    parts = [nn.Parameter(part.clone()) for part in _parts(start, slices=True)]
    if isinstance(optimizer, torch.optim.Adagrad):  # its state is there from the start
        return type(optimizer)(parts, **optimizer.defaults), parts
    for group in optimizer.param_groups:
        group["params"] = parts if group["params"] else []
    return optimizer, parts


def _parts(whole: Tensor, *, slices: bool) -> list[Tensor]:
    row = whole.flatten()
    return [row[:_CUT], row[_CUT:]] if slices else [whole]
