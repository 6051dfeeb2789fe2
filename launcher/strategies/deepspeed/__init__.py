"""DeepSpeed's engine: ZeRO splits optimizer state, gradients and weights over the ranks.

Where ZeRO keeps them is `layout`'s knowledge; how the engine is configured, `planner`'s.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.distributed import Rank, broadcast_buffers
from launcher.errors import SpecError
from launcher.plan import Deepspeed, RunPlan
from launcher.resources import this_host
from launcher.strategies import state
from launcher.strategies.deepspeed import layout
from launcher.strategies.deepspeed.joining import join, refusals, require_dimensions
from launcher.strategies.deepspeed.kept import Kept
from launcher.strategies.deepspeed.precision import Precision
from launcher.strategies.deepspeed.room import require_room
from launcher.strategies.elementwise import require_elementwise
from launcher.strategies.optimization import build_optimizer, build_schedule, replay
from launcher.tensor_files import Part


class DeepspeedStrategy:
    """Accumulation, clipping, loss scaling and the optimizer step by DeepSpeed's engine."""

    def __init__(self, model: nn.Module, *, plan: RunPlan, settings: Deepspeed, rank: Rank) -> None:
        train = plan.train
        self.splits = settings.zero_stage > 0
        if self.splits:
            require_elementwise(train.optimizer, device=rank.device)
        memory_bytes = this_host().memory_bytes
        require_room(settings.config, model, rank=rank, host_memory_bytes=memory_bytes)
        require_dimensions(model.named_parameters(), of="the model")
        state.extra_state(model)  # refuses now what no checkpoint could hold
        self.bare_model = model
        shape_of = layout.shape_of if settings.zero_stage == 3 else None
        optimizer = build_optimizer(train.optimizer, model, shape_of=shape_of)
        self._names = state.parameter_names(model, optimizer)
        self._precision = Precision(settings.config, train.precision, rank.device)
        self._precision.adapt(model)
        self._engine = _start_engine(model, optimizer, settings.config)
        self.model = self._engine
        self._optimizer = layout.innermost(self._engine.optimizer)
        self._built_groups = state.group_values(self._optimizer)
        self._schedule = build_schedule(train.schedule, self._optimizer)
        self._rows = layout.find_rows(
            self._engine, self._names, stage=settings.zero_stage, rank=rank
        )
        self._kept = Kept(model, self._optimizer, self._rows, rank=rank)
        self._world_size = rank.world_size  # the engine averages over ranks what is to be summed
        self._clips = train.clip_grad_norm > 0
        self._steps = 0
        self._step_begins = True
        if train.compile:
            self._engine.compile()

    @contextlib.contextmanager
    def forward(self, *, last: bool) -> Iterator[None]:
        if self._step_begins:  # as DDP does
            broadcast_buffers(self.bare_model)
        self._step_begins = last
        self._engine.set_gradient_accumulation_boundary(last)
        with self._precision.autocast():
            yield

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        return self._precision.autocast()

    def backward(self, loss: Tensor) -> None:
        with torch.autocast(loss.device.type, enabled=False):
            self._engine.backward(loss * self._world_size, scale_wrt_gas=False)

    def update(self) -> dict[str, float | Tensor]:
        logged: dict[str, float | Tensor] = {"lr": self._optimizer.param_groups[0]["lr"]}
        if self._clips and not self.splits:  # here the engine does not tell
            logged["grad_norm"] = self._precision.norm(self._engine, list(self._names))
        self._engine.step()
        layout.forget_gradients(self._engine, self._rows)
        if self._clips and (norm := self._engine.get_global_grad_norm()) is not None:
            logged["grad_norm"] = norm
        self._schedule.step()
        self._steps += 1
        return logged

    def tensors(self) -> dict[str, dict[str, Part]]:
        return self._kept.parts()

    def volatile(self) -> frozenset[str]:
        return state.volatile_names(self.bare_model, self._names.keys())

    def scalars(self) -> dict[str, Any]:
        return {
            "step": self._steps,
            "grad_scaler": self._precision.scaler_state(self._engine),
            "optimizer": self._kept.numbers(),
            "optimizer_groups": state.changed_values(self._optimizer, self._built_groups),
            "model": state.extra_state(self.bare_model),
            "aliases": state.aliases(self.bare_model),
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], scalars: dict[str, Any]) -> None:
        self._steps = scalars["step"]
        model = state.with_aliases(tensors["model"], scalars["aliases"])
        self._kept.load_model({**model, **scalars["model"]})
        self._kept.load_moments(state.by_parameter(tensors["optimizer"]), scalars["optimizer"])
        state.restore_groups(self._optimizer, scalars["optimizer_groups"])
        self._precision.load_scaler(self._engine, scalars["grad_scaler"])
        replay(self._schedule, steps=self._steps)


def _start_engine(model: nn.Module, optimizer: Optimizer, config: dict[str, Any]) -> Any:
    join()
    groups = len(optimizer.param_groups)
    with refusals():
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=copy.deepcopy(config),  # which the engine completes in place
            dist_init_required=False,
        )
    if len(layout.innermost(engine.optimizer).param_groups) != groups:  # so it does to Adagrad's
        raise SpecError(
            f"train.optimizer made {groups} groups of parameters, and DeepSpeed keeps "
            f"{type(optimizer).__name__} with one; make one, or set strategy.zero_stage to 0"
        )
    return engine
