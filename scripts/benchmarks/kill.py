"""A rank dies by `kill -9`: how long until training goes on."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.processes import RANKS, Stamp, environment, launcher_run, read_stamps, require
from benchmarks.report import Row

T = TypeVar("T")

_VICTIM = RANKS - 1
_STEPS_BEFORE = 30
_DEADLINE_S = 120.0
_POLL_S = 0.01


@dataclass(frozen=True)
class _Killed:
    """One run, in seconds."""

    cold_start: float
    restart: float


def measure(repeat: int, scratch: Path) -> list[Row]:
    """The model of char_gpt.yaml, two ranks, a checkpoint every 20 steps; rank 1 is killed.

    The time runs from the kill, at step 30, until both new ranks are past their first optimizer
    step. The cold start is that of the same run: from the command until both ranks are past
    theirs. One run before the first is not counted.
    """
    runs = [_killed(scratch, scratch / f"stamps-{turn}") for turn in range(repeat + 1)][1:]
    restarts = tuple(run.restart for run in runs)
    return [
        Row(
            name="kill",
            what="kill -9 of a rank to the next step",
            unit="s",
            ours=restarts,
            peer=tuple(run.cold_start for run in runs),
            peer_name="own cold start",
            goal=1.5,
        ),
        Row(
            name="kill",
            what="the same, in seconds",
            unit="s",
            ours=restarts,
            peer=(),
            peer_name="",
            goal=5.0,
        ),
    ]


def _killed(scratch: Path, stamps: Path) -> _Killed:
    command = launcher_run("gpt", scratch, train__max_steps=100_000, checkpoint__every_steps=20)
    started = time.time()
    with _running(command, stamps) as process:
        before = _await(process, lambda: _all_past(stamps, steps=_STEPS_BEFORE))
        killed = time.time()
        os.kill(before[_VICTIM][-1].pid, signal.SIGKILL)
        dead = {stamps[-1].pid for stamps in before}
        after = _await(process, lambda: _all_past(stamps, steps=1, without=dead))
    return _Killed(
        cold_start=max(stamps[0].time for stamps in before) - started,
        restart=max(stamps[0].time for stamps in after) - killed,
    )


@contextlib.contextmanager
def _running(command: list[str], stamps: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The run in the background; stopped at once in the end."""
    with stamps.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=stamps.parent,
            env=environment(BENCH_STAMPS=str(stamps)),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _all_past(
    stamps: Path,
    *,
    steps: int,
    without: set[int] = frozenset(),  # type: ignore[assignment]
) -> list[list[Stamp]] | None:
    """The stamps of every rank once each has that many, of other processes than those."""
    ranks = [
        [stamp for stamp in read_stamps(stamps, rank) if stamp.pid not in without]
        for rank in range(RANKS)
    ]
    return ranks if all(len(rank) >= steps for rank in ranks) else None


def _await(process: "subprocess.Popen[bytes]", look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + _DEADLINE_S
    while (found := look()) is None:
        require(process.poll() is None, "the run ended before it could be measured")
        require(time.monotonic() < deadline, f"no step in {_DEADLINE_S:.0f} s")
        time.sleep(_POLL_S)
    return found
