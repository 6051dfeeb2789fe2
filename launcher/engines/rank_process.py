"""One rank as a process: how it is forked, what it does first, how it reports and is reaped.

Which ranks there are, and when they must die, is the zygote's knowledge.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from launcher import rundir
from launcher.distributed import (
    Rank,
    Rendezvous,
    die_with_parent,
    rank_environment,
    set_environment,
)
from launcher.engines.last_words import last_words
from launcher.engines.progress import Progress
from launcher.engines.protocol import RankEnd, Start
from launcher.outcome import AttemptEnd
from launcher.rundir import RunDir
from launcher.worker import Place, run_rank

ASK_TO_STOP = signal.SIGTERM
"""Makes a rank save after its step and end."""
NEWS = signal.SIGCHLD
"""Tells the zygote to look at its ranks: one died (from the kernel), or has reported."""
DUMP_STACKS = signal.SIGUSR1
"""Makes a rank write the stack of each of its threads into its log."""


@dataclass
class RankProcess:
    """A rank, seen from its parent."""

    number: int
    pid: int
    report_fd: int
    log: Path
    status: int | None = None
    """What waitpid said; None while it runs."""
    died: float = 0.0
    report: bytes = b""
    killed_by_us: bool = False

    def end(self) -> RankEnd:
        """What is known of its end by now."""
        return RankEnd(
            rank=self.number,
            exit_status=self.status,
            died=self.died,
            report=AttemptEnd.model_validate_json(self.report)
            if self.report.endswith(b"\n")
            else None,
            killed_by_us=self.killed_by_us,
        )

    def last_lines(self) -> str:
        """What it printed last; of a dump of its stacks, where it stood."""
        return last_words(self.log)

    def reap(self) -> None:
        """Takes its report and its exit status, if they are there."""
        if self.status is not None:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.report_fd, 1 << 16):
                self.report += chunk
        if pid:
            self.status, self.died = os.waitstatus_to_exitcode(status), time.time()
            os.close(self.report_fd)

    def signal(self, number: int) -> None:
        """Signals the rank itself, not what it started."""
        if self.status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the rank and everything in its process group."""
        self.killed_by_us = self.killed_by_us or self.status is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)


def fork(start: Start, *, local: int, rendezvous: Rendezvous, progress: Progress) -> RankProcess:
    """Starts a rank, the `local`-th of this host.

    This process must have no other thread, and never have touched a GPU.
    """
    number = start.first_rank + local
    log = RunDir(start.run_dir).local(rundir.rank_log(start.number, number))
    log.parent.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {ASK_TO_STOP})  # until the rank has a handler
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {ASK_TO_STOP})
        os.close(writer)
        os.set_blocking(reader, False)
        return RankProcess(number=number, pid=pid, report_fd=reader, log=log)
    try:
        _become_rank(log, parent=parent)
        end = _run(start, local=local, rendezvous=rendezvous, progress=progress)
        os.write(writer, end.model_dump_json().encode() + b"\n")
        _flush()
        os.kill(parent, NEWS)
        while not end.failure:
            signal.pause()  # the others may still need this end of a connection; see `Group`
    except BaseException:  # noqa: BLE001  # the last place where a rank can say why it dies
        traceback.print_exc()
    finally:
        _flush()
        os._exit(1)  # nothing of the parent's may run again in its child


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()


def _become_rank(log: Path, *, parent: int) -> None:
    """A session of its own, so that it dies as a whole and no Ctrl-C reaches it; its own log."""
    signal.set_wakeup_fd(-1)  # the parent's
    signal.signal(NEWS, signal.SIG_DFL)
    os.setsid()
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    faulthandler.register(DUMP_STACKS, all_threads=True)


def _run(start: Start, *, local: int, rendezvous: Rendezvous, progress: Progress) -> AttemptEnd:
    ranks = start.plan.ranks
    device = torch.device(ranks.device, local) if ranks.device == "cuda" else torch.device("cpu")
    rank = Rank(
        rank=start.first_rank + local,
        world_size=ranks.world_size,
        local_rank=local,
        local_world_size=start.ranks,
        device=device,
    )
    set_environment(rank_environment(rank, rendezvous=rendezvous, threads=ranks.threads_per_rank))
    stopping: list[int] = []
    signal.signal(ASK_TO_STOP, lambda signum, _frame: stopping.append(signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {ASK_TO_STOP})
    return run_rank(
        start.attempt,
        Place(
            rank=rank,
            rendezvous=rendezvous if ranks.world_size > 1 else None,
            stop_wanted=lambda: bool(stopping),
            beat=lambda: progress.beat(local),
        ),
    )
