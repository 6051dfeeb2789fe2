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
from launcher.plan import RunPlan
from launcher.strategies.optimization import build_optimizer, build_schedule, replay

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DdpStrategy:
    """Mixed precision, accumulation, clipping, optimizer and schedule around a DDP model."""

    def __init__(self, model: nn.Module, *, plan: RunPlan, rank: Rank) -> None:
        train = plan.train
        self.bare_model = model.to(rank.device)
        self._optimizer = build_optimizer(train.optimizer, self.bare_model)
        self._schedule = build_schedule(train.schedule, self._optimizer)
        self._scaler = torch.amp.GradScaler(rank.device.type, enabled=train.precision == "fp16")
        self._autocast = torch.autocast(
            rank.device.type,
            dtype=_DTYPES[train.precision],
            enabled=train.precision != "fp32",
        )
        self._world_size = rank.world_size  # DDP averages over ranks what is to be summed
        self._clip = train.clip_grad_norm
        self._steps = 0
        self._ddp = _wrap(self.bare_model, plan=plan, rank=rank) if dist.is_initialized() else None
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

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        names = self._parameter_names()
        moments = {
            f"{names[parameter]}.{key}": value
            for parameter, state in self._optimizer.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }
        parameters = {name for name, _ in self.bare_model.named_parameters(remove_duplicate=False)}
        model = {
            name: value if name in parameters else value.clone()
            for name, value in self.bare_model.state_dict().items()
            if isinstance(value, Tensor)
        }
        return {"model": model, "optimizer": moments}

    def scalars(self) -> dict[str, Any]:
        names = self._parameter_names()
        return {
            "step": self._steps,
            "grad_scaler": self._scaler.state_dict(),
            "optimizer": {
                names[parameter]: {
                    key: value for key, value in state.items() if not isinstance(value, Tensor)
                }
                for parameter, state in self._optimizer.state.items()
            },
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], scalars: dict[str, Any]) -> None:
        self.bare_model.load_state_dict(tensors["model"])
        self._steps = scalars["step"]
        self._load_optimizer(tensors["optimizer"], scalars["optimizer"])
        if self._scaler.is_enabled() and scalars["grad_scaler"]:
            self._scaler.load_state_dict(scalars["grad_scaler"])
        replay(self._schedule, steps=self._steps)

    def _load_optimizer(self, moments: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Moments come from the checkpoint; hyperparameters stay as the plan has them."""
        fresh = self._optimizer.state_dict()
        by_name: dict[str, dict[str, Any]] = {name: dict(rest) for name, rest in numbers.items()}
        for key, value in moments.items():
            name, _, moment = key.rpartition(".")
            by_name.setdefault(name, {})[moment] = value
        names = list(self._parameter_names().values())
        fresh["state"] = {
            index: by_name[name] for index, name in enumerate(names) if name in by_name
        }
        self._optimizer.load_state_dict(fresh)

    def _parameter_names(self) -> dict[Tensor, str]:
        """In the order in which the optimizer counts its parameters."""
        named: dict[Tensor, str] = {
            parameter: name for name, parameter in self.bare_model.named_parameters()
        }
        groups = self._optimizer.param_groups
        return {p: named[p] for group in groups for p in group["params"]}


def _wrap(model: nn.Module, *, plan: RunPlan, rank: Rank) -> DistributedDataParallel:
    ddp = DistributedDataParallel(
        model,
        device_ids=[rank.local_rank] if rank.device.type == "cuda" else None,
        find_unused_parameters=plan.strategy.find_unused_parameters,
        gradient_as_bucket_view=True,
    )
    if not plan.strategy.find_unused_parameters:
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
