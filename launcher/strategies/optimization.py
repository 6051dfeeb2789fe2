"""The arithmetic of a step: autocast, the optimizer and its learning-rate schedule.

A schedule is a function of the step number: after a resume it is replayed, not restored, so that
a changed schedule takes effect.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from launcher.errors import SpecError
from launcher.plan import Call, Schedule
from launcher.targets import build, load

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Around a forward and its loss; without effect for fp32."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def build_optimizer(
    call: Call, model: nn.Module, *, shape_of: Callable[[Tensor], Sequence[int]] | None = None
) -> Optimizer:
    """The optimizer over the parameters that want gradients, fused where torch offers it.

    With `shape_of`, which tells the shapes of parameters that are split, it sees those.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if shape_of is None:
        return _build_over(trained, call)
    shown = {_stand_in(p, shape_of(p)): p for p in trained}
    optimizer = _build_over(list(shown), call)
    for group in optimizer.param_groups:
        group["params"] = [shown[p] for p in group["params"]]
    optimizer.state.clear()
    return optimizer


def _stand_in(parameter: Tensor, shape: Sequence[int]) -> nn.Parameter:
    """Of another shape, and without memory."""
    return nn.Parameter(torch.zeros((), dtype=parameter.dtype).to(parameter.device).expand(*shape))


def _build_over(parameters: Sequence[nn.Parameter], call: Call) -> Optimizer:
    args = {"params": list(parameters), **call.args}
    if _offers_fused(load(call.target)) and not args.keys() & {"fused", "foreach"}:
        try:
            return cast(Optimizer, build(call.target, {**args, "fused": True}))
        except RuntimeError:  # not for this device or these dtypes
            pass
    optimizer = build(call.target, args)
    if not isinstance(optimizer, Optimizer):
        raise SpecError(
            f"train.optimizer {call.target} returned a {type(optimizer).__name__}, "
            "not a torch.optim.Optimizer"
        )
    return optimizer


def build_schedule(schedule: Schedule, optimizer: Optimizer) -> LRScheduler:
    """The schedule at step 0.

    Warm-up is linear: step k of w (from 0) runs at (k + 1) / w of the learning rate.
    """
    main = build(schedule.target, {"optimizer": optimizer, **schedule.args})
    if isinstance(main, ReduceLROnPlateau) or not isinstance(main, LRScheduler):
        raise SpecError(
            f"train.schedule {schedule.target} is not a schedule of the step number; "
            "take one like torch.optim.lr_scheduler:CosineAnnealingLR"
        )
    if schedule.warmup_steps > 0:
        warmup = LinearLR(
            optimizer,
            start_factor=1 / schedule.warmup_steps,
            total_iters=max(1, schedule.warmup_steps - 1),
        )
        main = SequentialLR(optimizer, [warmup, main], milestones=[schedule.warmup_steps])
    return cast(LRScheduler, main)


def replay(schedule: LRScheduler, *, steps: int) -> None:
    """Takes a fresh schedule to where it stands after so many optimizer steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of stepping before the optimizer did
        for _ in range(steps):
            schedule.step()


def _offers_fused(optimizer: Any) -> bool:
    return inspect.isclass(optimizer) and "fused" in inspect.signature(optimizer).parameters
