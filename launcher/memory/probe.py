"""Runs one training step of a job in this process, and counts what its tensors take.

With fake tensors, which have a shape and no memory; how much DDP or ZeRO makes of it is
`formulas`' knowledge.
"""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from launcher.contracts import Task
from launcher.memory.needs import Measured, half_precision
from launcher.plan import RunPlan
from launcher.strategies.optimization import build_optimizer
from launcher.strategies.recomputation import recompute

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure_with_fakes(plan: RunPlan, task: Task, batch: Any, *, samples: int) -> Measured:
    """A model of any size is no matter; raises what it cannot do with fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch = tree_map_only(Tensor, mode.from_tensor, batch)
        return _measure(plan, task, batch, samples=samples, method="fake tensors")


def measure_with_memory(plan: RunPlan, task: Task, batch: Any, *, samples: int) -> Measured:
    """With real tensors on the CPU: that takes the memory which is measured."""
    on_cpu = plan.model_copy(update={"ranks": plan.ranks.model_copy(update={"device": "cpu"})})
    return _measure(on_cpu, task, batch, samples=samples, method="real tensors")


@dataclass(frozen=True)
class _Job:
    """What takes part in a step."""

    task: Task
    model: nn.Module
    optimizer: Optimizer
    batch: Any
    autocast: torch.autocast
    clip: float


def _measure(plan: RunPlan, task: Task, batch: Any, *, samples: int, method: str) -> Measured:
    device = torch.device(plan.ranks.device)
    half = _DTYPES.get(half_precision(plan))
    model = task.build_model().train()
    own_bytes = _trainable_bytes(model)
    _place(model, device=device, dtype=half)
    batch = tree_map_only(Tensor, lambda t: _placed(t, device=device, dtype=half), batch)
    recompute(model, plan.train.recomputed)
    job = _Job(
        task=task,
        model=model,
        optimizer=build_optimizer(plan.train.optimizer, model),
        batch=batch,
        autocast=torch.autocast(
            device.type,
            dtype=_DTYPES[plan.train.precision],
            enabled=plan.train.precision != "fp32" and not half,
        ),
        clip=plan.train.clip_grad_norm,
    )
    watch = _step(job)
    bytes_here = _trainable_bytes(model)
    return Measured(
        method=method,
        samples=samples,
        trainable=tuple(p.numel() for p in model.parameters() if p.requires_grad),
        trainable_bytes=own_bytes,
        frozen_bytes=_bytes([p for p in model.parameters() if not p.requires_grad]),
        buffer_bytes=_bytes(list(model.buffers())),
        optimizer_bytes=round(_state_bytes(job.optimizer) * own_bytes / max(1, bytes_here)),
        update_bytes=watch.update_bytes,
        profile=watch.profile(gradient_bytes=bytes_here),
        process_bytes=0,
    )


def _place(model: nn.Module, *, device: torch.device, dtype: torch.dtype | None) -> None:
    """As `model.to`, which cannot exchange the memory of fake tensors."""
    if dtype is None and all(p.device == device for p in model.parameters()):
        return
    placed: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in placed:
                values = _placed(parameter.detach(), device=device, dtype=dtype)
                placed[parameter] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            setattr(module, name, placed[parameter])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, _placed(buffer, device=device, dtype=dtype))


def _placed(tensor: Tensor, *, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _step(job: _Job) -> "_Watch":
    """Forward, backward, clipping and optimizer step, watched."""
    tracker = MemTracker()
    tensors = [leaf for leaf in tree_leaves(job.batch) if isinstance(leaf, Tensor)]
    tracker.track_external(job.model, job.optimizer)
    watch = _Watch(tracker)
    tracker.track_external(*tensors)
    with watch.counting_gradients(job.model), tracker, watch:
        with job.autocast:
            loss = job.task.loss(job.model, job.batch)
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        del loss
        gc.collect()
        watch.begin_update()
        if job.clip > 0:
            nn.utils.clip_grad_norm_(job.model.parameters(), job.clip)
        job.optimizer.step()
        watch.end_update()
    return watch


class _Watch(TorchDispatchMode):
    """Looks at the tracker after each operation, and keeps the most that there was."""

    def __init__(self, tracker: MemTracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch declares no types
        self.update_bytes = 0
        self._tracker = tracker
        self._model_bytes = self._total()
        self._gradient_bytes = 0
        self._most: dict[int, int] = {}
        """By gradients that there are."""
        self._updating = False
        self._most_updating = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        total = self._total()
        if self._updating:
            self._most_updating = max(self._most_updating, total)
        else:
            beside = total - self._model_bytes - self._gradient_bytes
            done = self._gradient_bytes
            self._most[done] = max(self._most.get(done, 0), beside)
        return result

    @contextlib.contextmanager
    def counting_gradients(self, model: nn.Module) -> Iterator[None]:
        """A gradient counts as one from when it is whole; before, it is an activation."""
        seen: set[Tensor] = set()

        def count(parameter: Tensor) -> None:
            if parameter not in seen:
                seen.add(parameter)
                self._gradient_bytes += parameter.nbytes

        trainable = [p for p in model.parameters() if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(count) for p in trainable]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def begin_update(self) -> None:
        self._updating = True
        self._most_updating = self._total()

    def end_update(self) -> None:
        """What is left now is the optimizer's state."""
        self.update_bytes = self._most_updating - self._total()

    def profile(self, *, gradient_bytes: int) -> tuple[tuple[float, int], ...]:
        return tuple(
            (done / max(1, gradient_bytes), most) for done, most in sorted(self._most.items())
        )

    def _total(self) -> int:
        return sum(snap["Total"] for snap in self._tracker.get_tracker_snapshot().values())


def _trainable_bytes(model: nn.Module) -> int:
    return _bytes([p for p in model.parameters() if p.requires_grad])


def _state_bytes(optimizer: Optimizer) -> int:
    return _bytes(tree_leaves(dict(optimizer.state)))


def _bytes(values: list[Any]) -> int:
    """Of the tensors among these; what shares memory counts once."""
    storages = {}
    for value in values:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[id(storage)] = (storage, storage.nbytes())
    return sum(size for _, size in storages.values())
