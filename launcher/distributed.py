"""Ranks, their process group, and collectives by name; with `resources` the only reader of the
environment.

How the processes of the ranks came to be is the engines' knowledge.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore, TCPStore, _broadcast_coalesced

_PR_SET_PDEATHSIG = 1  # prctl(2)
_BUCKET_BYTES = 1 << 28  # what DistributedDataParallel takes for the same
ENDLESS_S = 86_400.0
"""Engines find hangs and lost peers; ranks that wait for one with slow storage are neither."""


@dataclass(frozen=True)
class Rank:
    """One rank's place among the others."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    """Ranks on this rank's host."""
    device: torch.device


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of an attempt meet."""

    address: str
    port: int
    listen_fd: int | None
    """On rank 0's host a socket that listens there already, inherited by the ranks: nobody can
    take the port. None on other hosts."""


def join_process_group(
    rank: Rank,
    *,
    backend: str,
    rendezvous: Rendezvous | None,
    meeting_timeout_s: float,
    collective_timeout_s: float,
    alone_too: bool = False,
) -> None:
    """Makes the default process group of this rank; a single rank gets one if `alone_too`.

    Nobody leaves it: a rank that is done waits for the others, and all end at once. Tearing the
    group down rank by rank was seen to hang in gloo when a peer was already gone.
    """
    if rendezvous is None:
        if alone_too and not dist.is_initialized():
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        return
    store = TCPStore(
        rendezvous.address,
        rendezvous.port,
        world_size=rank.world_size,
        is_master=rank.rank == 0,
        timeout=timedelta(seconds=meeting_timeout_s),
        master_listen_fd=rendezvous.listen_fd if rank.rank == 0 else None,
    )
    dist.init_process_group(
        backend,
        store=store,
        rank=rank.rank,
        world_size=rank.world_size,
        timeout=timedelta(seconds=collective_timeout_s),
        device_id=rank.device if rank.device.type == "cuda" else None,
    )


def use_device(device: torch.device) -> None:
    """Makes it this thread's own; CUDA asks each thread."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


class PendingSum:
    """A sum over all ranks that is under way; `result` waits for it."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._work = None
        self._copied: torch.cuda.Event | None = None
        if dist.is_initialized():
            self._work = dist.all_reduce(values, async_op=True)
        if values.is_cuda:
            if self._work is not None:
                self._work.wait()  # orders the streams; the CPU runs on
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def result(self) -> list[float]:
        """The sums, as numbers on the host."""
        if self._copied is not None:
            self._copied.synchronize()
        elif self._work is not None:
            self._work.wait()
        return self._values.tolist()


def all_reduce_async(values: Tensor) -> PendingSum:
    """Starts summing a small float tensor over all ranks; called by every rank. Owns `values`."""
    return PendingSum(values)


def all_reduce_sum(values: Tensor) -> list[float]:
    """The sum of a small float tensor over all ranks; called by every rank."""
    return PendingSum(values).result()


class SideChannel:
    """Sends tensors on the CPU from rank to rank beside everything else, in any one thread.

    It is a process group of its own, so nothing that training exchanges gets in its way. Made by
    every rank.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=ENDLESS_S))

    def send(self, values: Tensor, *, to: int) -> None:
        """Returns when the values may change again."""
        dist.send(values, to, group=self._group)

    def receive(self, values: Tensor, *, sender: int) -> None:
        """Fills a contiguous tensor of the size that is sent."""
        dist.recv(values, sender, group=self._group)


def broadcast_buffers(module: nn.Module) -> None:
    """Gives every rank the buffers of rank 0; called by every rank."""
    buffers = list(module.buffers())
    if dist.is_initialized() and buffers:
        _broadcast_coalesced(_world(), buffers, _BUCKET_BYTES, 0)


def _world() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group
    return group


def is_peer_loss(error: BaseException) -> bool:
    """Whether this error only says that another rank is gone."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in (
            "Connection closed by peer",
            "Connection reset by peer",
            "Broken pipe",
            "Socket closed",
            "connectFullMesh failed",
            "Gloo",
            "gloo",
        )
    )


def set_environment(values: Mapping[str, str]) -> None:
    """Sets variables for this process and what it starts."""
    os.environ.update(values)


def rank_environment(rank: Rank, *, rendezvous: Rendezvous | None, threads: int) -> dict[str, str]:
    """What libraries expect in the environment of a rank, by torchrun's and DeepSpeed's names."""
    meeting = (
        {"MASTER_ADDR": rendezvous.address, "MASTER_PORT": str(rendezvous.port)}
        if rendezvous
        else {}
    )
    return meeting | {
        "RANK": str(rank.rank),
        "LOCAL_RANK": str(rank.local_rank),
        "WORLD_SIZE": str(rank.world_size),
        "LOCAL_WORLD_SIZE": str(rank.local_world_size),
        "OMP_NUM_THREADS": str(threads),
        "DS_ACCELERATOR": rank.device.type,
    }


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the thread that forked it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_loader_worker(_worker: int) -> None:
    """Makes a loader process end with its rank and at no polite signal: a rank that is asked to
    stop still needs its samples."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
