"""DistributedDataParallel: every rank holds the whole model, gradients are averaged.

What a step consists of is the loop's knowledge; when a state is saved, `saving`'s.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launcher.distributed import Rank
from launcher.plan import Ddp, RunPlan
from launcher.strategies import state
from launcher.strategies.optimization import autocast, build_optimizer, build_schedule, replay
from launcher.tensor_files import Part


class DdpStrategy:
    """Mixed precision, accumulation, clipping, optimizer and schedule around a DDP model."""

    splits = False

    def __init__(self, model: nn.Module, *, plan: RunPlan, ddp: Ddp, rank: Rank) -> None:
        train = plan.train
        self._saves = rank.rank == 0
        self.bare_model = model.to(rank.device)
        self._optimizer = build_optimizer(train.optimizer, self.bare_model)
        self._names = state.parameter_names(self.bare_model, self._optimizer)
        self._built_groups = state.group_values(self._optimizer)
        self._schedule = build_schedule(train.schedule, self._optimizer)
        state.extra_state(self.bare_model)  # refuses now what no checkpoint could hold
        self._scaler = torch.amp.GradScaler(rank.device.type, enabled=train.precision == "fp16")
        self._autocast = autocast(train.precision, rank.device)
        self._world_size = rank.world_size  # DDP averages over ranks what is to be summed
        self._clip = train.clip_grad_norm
        self._steps = 0
        self._ddp = _wrap(self.bare_model, ddp, rank=rank) if dist.is_initialized() else None
        self.model = self._ddp or self.bare_model
        if train.compile:
            self.model.compile()

    @contextlib.contextmanager
    def forward(self, *, last: bool) -> Iterator[None]:
        accumulate = self._ddp.no_sync() if self._ddp and not last else contextlib.nullcontext()
        with accumulate, self._autocast:
            yield

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        return self._autocast

    def backward(self, loss: Tensor) -> None:
        with torch.autocast(loss.device.type, enabled=False):
            self._scaler.scale(loss * self._world_size).backward()

    def update(self) -> dict[str, float | Tensor]:
        logged: dict[str, float | Tensor] = {"lr": self._optimizer.param_groups[0]["lr"]}
        if self._clip > 0:
            self._scaler.unscale_(self._optimizer)
            logged["grad_norm"] = nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        return logged

    def tensors(self) -> dict[str, dict[str, Part]]:
        if not self._saves:
            return {}
        return {
            "model": state.whole(state.model_tensors(self.bare_model)),
            "optimizer": state.whole(state.moments(self._optimizer, self._names)),
        }

    def volatile(self) -> frozenset[str]:
        return state.volatile_names(self.bare_model, self._names.keys())

    def scalars(self) -> dict[str, Any]:
        return {
            "step": self._steps,
            "grad_scaler": self._scaler.state_dict(),
            "optimizer": state.numbers(self._optimizer, self._names),
            "optimizer_groups": state.changed_values(self._optimizer, self._built_groups),
            "model": state.extra_state(self.bare_model),
            "aliases": state.aliases(self.bare_model),
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], scalars: dict[str, Any]) -> None:
        model = state.with_aliases(tensors["model"], scalars["aliases"])
        self.bare_model.load_state_dict({**model, **scalars["model"]})
        self._steps = scalars["step"]
        state.restore_optimizer(
            self._optimizer,
            self._names,
            tensors=tensors["optimizer"],
            rest=scalars["optimizer"],
            groups=scalars["optimizer_groups"],
        )
        if self._scaler.is_enabled() and scalars["grad_scaler"]:
            self._scaler.load_state_dict(scalars["grad_scaler"])
        replay(self._schedule, steps=self._steps)


def _wrap(model: nn.Module, settings: Ddp, *, rank: Rank) -> DistributedDataParallel:
    ddp = DistributedDataParallel(
        model,
        device_ids=[rank.local_rank] if rank.device.type == "cuda" else None,
        find_unused_parameters=settings.find_unused_parameters,
        gradient_as_bucket_view=True,
    )
    if not settings.find_unused_parameters:
        _fix_bucket_layout(ddp)
    return ddp


def _fix_bucket_layout(ddp: DistributedDataParallel) -> None:
    """Makes DDP lay out its buckets now, in an order that is the same at every start.

    After its first backward DDP rebuilds its buckets in the order in which gradients arrived. With
    three ranks or more the position of a gradient in its bucket decides in which order a ring
    all-reduce sums it, so without this a resumed run would differ from an unbroken one in the last
    bit. The stand-in forward touches the parameters in the order of their registration, so that
    backward meets them in reverse: the order in which most models produce them.
    """
    model = ddp.module
    trained = [p for p in model.parameters() if p.requires_grad]
    own_forward = vars(model).get("forward")
    model.forward = lambda: torch.stack([p.sum() for p in trained]).sum()
    try:
        ddp().backward()
    finally:
        del model.forward
        if own_forward is not None:
            model.forward = own_forward
    ddp.zero_grad(set_to_none=True)
