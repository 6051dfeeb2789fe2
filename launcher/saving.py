"""Saves while training goes on: the copy runs beside the next forward, the writing behind it.

`checkpoint` knows what makes files a checkpoint; the loop says when one is due.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from launcher import checkpoint, parts, rundir, storage, tensor_files
from launcher.contracts import Strategy
from launcher.data.order import Position
from launcher.distributed import Rank, use_device
from launcher.errors import DivergedError, LauncherError
from launcher.parts import Parts
from launcher.rundir import RunDir

_WRITER_NICENESS = 10
_BEAT_S = 1.0
_OTHERS_S = 5.0
"""So long a rank that ends waits for a save in which others take part."""


class Saver:
    """The checkpoints of one attempt. Every rank makes and calls it; rank 0 writes the files.

    What changes only in the optimizer step is copied while the next step computes its gradients;
    `finish_copy` stands before each optimizer step. The rest is copied on the spot.
    """

    def __init__(
        self, strategy: Strategy, run_dir: RunDir, *, keep_last: int, rank: Rank, at: Position
    ) -> None:
        self.saved_step = at.step
        """The newest step that is saved or on its way."""
        self._strategy = strategy
        self._run_dir = run_dir
        self._keep_last = keep_last
        self._writes = rank.rank == 0
        self._idle = not self._writes and not strategy.splits
        self._courier = parts.Courier(rank) if strategy.splits and rank.world_size > 1 else None
        self._copier = ThreadPoolExecutor(
            1, "checkpoint-copy", initializer=use_device, initargs=(rank.device,)
        )
        self._writer = ThreadPoolExecutor(1, "checkpoint-write", initializer=_give_way)
        self._copy: Future[None] | None = None
        self._write: Future[None] | None = None
        self._staging: Parts = {}
        self._blocked_s = 0.0

    def save(self, position: Position, beat: Callable[[], None]) -> None:
        """Starts saving the state as it is; waits first if the save before is still writing.

        `beat` is called while it waits: slow storage is no hang.
        """
        self.saved_step = position.step
        if self._idle:
            return
        with self._blocking():
            self._wait_for_write(beat)
            self._blocked_s = 0.0
            live = self._strategy.tensors()
            state = {
                "schema": 1,
                "step": position.step,
                "epoch": position.epoch,
                "taken": position.taken,
                "samples": position.samples,
                "strategy": self._strategy.scalars(),
            }
            ready = _current_event(live)
            volatile, steady = _split_volatile(live, self._strategy.volatile())
            self._stage(volatile, ready)
            self._copy = self._copier.submit(self._stage, steady, ready)
            self._write = self._writer.submit(self._publish, state, self._copy)

    def finish_copy(self) -> None:
        """Returns when the state may change again; raises what went wrong in a save."""
        if self._copy is not None:
            with self._blocking():
                self._copy.result()
            self._copy = None
        if self._write is not None and self._write.done():
            self._write.result()

    def wait(self, beat: Callable[[], None]) -> None:
        """Returns when every save is durable; raises what went wrong in one."""
        self.finish_copy()
        self._wait_for_write(beat)

    def _wait_for_write(self, beat: Callable[[], None]) -> None:
        if self._write is None:
            return
        while not wait([self._write], timeout=_BEAT_S).done:
            beat()
        self._write.result()

    def close(self) -> None:
        """Lets a save that is under way finish, if it does not wait for a rank that is gone."""
        self._copier.shutdown()
        if self._courier and self._write:
            wait([self._write], timeout=_OTHERS_S)
        self._writer.shutdown(wait=self._courier is None)

    @contextlib.contextmanager
    def _blocking(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._blocked_s += time.perf_counter() - started

    def _stage(self, live: Parts, ready: torch.cuda.Event | None) -> None:
        """Copies into host memory that is kept from save to save: fresh pages cost more than it."""
        for file, group in live.items():
            staged = self._staging.setdefault(file, {})
            for name, part in group.items():
                if name not in staged:
                    staged[name] = replace(part, values=_on_host(part.values))
            if group:
                _copy_all(
                    [staged[name].values for name in group],
                    [part.values for part in group.values()],
                    ready,
                )

    def _publish(self, state: dict[str, Any], copy: Future[None]) -> None:
        copy.result()
        self._refuse_non_finite(state["step"])
        if self._writes:
            self._write_files(state)
        elif self._courier:
            self._courier.send(self._staging)

    def _write_files(self, state: dict[str, Any]) -> None:
        started = time.perf_counter()
        step = state["step"]
        name = rundir.checkpoint_name(step)
        try:
            folder = checkpoint.clear(self._run_dir, name)
            with storage.storage_errors(str(folder)):
                parts.write(folder, self._staging, self._courier)
                (folder / rundir.STATE).write_text(json.dumps(state))
            checkpoint.commit(self._run_dir, name)
        except LauncherError:
            with contextlib.suppress(LauncherError, OSError):
                self._run_dir.remove(name)
            raise
        checkpoint.prune(self._run_dir, keep_last=self._keep_last, newest=step)
        self._run_dir.append(
            rundir.EVENTS,
            {
                "time": time.time(),
                "event": "checkpoint",
                "step": step,
                "checkpoint": name,
                "blocked_s": round(self._blocked_s, 6),
                "write_s": round(time.perf_counter() - started, 6),
            },
        )

    def _refuse_non_finite(self, step: int) -> None:
        """A checkpoint whose weights are not numbers would bury the good one before it."""
        model = self._staging["model"]
        for name, _ in self._strategy.bare_model.named_parameters():
            if name in model and not _all_finite(model[name].values):
                raise DivergedError(f"{name} is not finite after step {step}; it was not saved")


def load(run_dir: RunDir, name: str, strategy: Strategy) -> Position:
    """Puts a checkpoint's state in place and says how far it had come."""
    folder = run_dir.local(name)
    state = json.loads((folder / rundir.STATE).read_text())
    files = sorted(folder.glob(rundir.tensor_file("*")))
    tensors = {path.stem: tensor_files.load(path) for path in files}
    strategy.load(tensors, state["strategy"])
    return Position(state["step"], state["epoch"], state["taken"], state["samples"])


def _give_way() -> None:
    """Lets training go before this thread where cores are short (a thread has its own niceness)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _WRITER_NICENESS)


def _all_finite(tensor: Tensor) -> bool:
    """One quick pass: what is not finite stays so in a sum, which could only overflow by itself."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _split_volatile(live: Parts, volatile: Set[str]) -> tuple[Parts, Parts]:
    """Those of the model that may change at any time, and the rest."""
    model = live["model"]
    steady = {name: part for name, part in model.items() if name not in volatile}
    return (
        {"model": {name: part for name, part in model.items() if name in volatile}},
        {**live, "model": steady},
    )


def _on_host(live: Tensor) -> Tensor:
    return torch.empty_like(
        live, device="cpu", pin_memory=live.is_cuda, memory_format=torch.contiguous_format
    )


def _current_event(live: Parts) -> torch.cuda.Event | None:
    """Marks, on a GPU, the point at which the state is complete."""
    if not any(part.values.is_cuda for group in live.values() for part in group.values()):
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def _copy_all(staged: list[Tensor], live: list[Tensor], ready: torch.cuda.Event | None) -> None:
    live = [tensor.detach() for tensor in live]
    if ready is None:
        torch._foreach_copy_(staged, live)
        return
    side = torch.cuda.Stream()
    side.wait_event(ready)
    with torch.cuda.stream(side):
        torch._foreach_copy_(staged, live, non_blocking=True)
    side.synchronize()
