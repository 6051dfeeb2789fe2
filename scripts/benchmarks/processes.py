"""Starts both sides in the same way, and reads when their optimizer steps ended.

The times come from `jobs/workload.py`, whose optimizer both sides use.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
JOBS = Path(__file__).resolve().parent / "jobs"
PYTHON = sys.executable
LAUNCHER = str(Path(PYTHON).with_name("launcher"))
RANKS = 2
_STAMP = Struct("ddq")
_LONGEST_RUN_S = 900.0


class FailedRunError(Exception):
    """A side did not do what it was asked, so there is nothing to measure."""


@dataclass(frozen=True)
class Stamp:
    """The end of an optimizer step of one rank."""

    time: float
    """Unix seconds."""
    cpu_s: float
    """What the process has computed so far, on all its threads."""
    pid: int


@dataclass(frozen=True)
class Trained:
    """A training that ran to its end."""

    started: float
    ranks: tuple[tuple[Stamp, ...], ...]
    stdout: str

    @property
    def first_step_s(self) -> float:
        """From the start of the command until every rank had done its first optimizer step."""
        return max(stamps[0].time for stamps in self.ranks) - self.started

    def step_times_s(self, *, after: int) -> list[float]:
        """The steps of rank 0 after the first `after`: from the end of one to that of the next."""
        times = [stamp.time for stamp in self.ranks[0]]
        return [end - begin for begin, end in zip(times[after - 1 :], times[after:], strict=False)]

    def step_cpu_s(self, *, after: int) -> float:
        """CPU time of the mean step of rank 0 after the first `after`, its threads together."""
        first, *_, last = self.ranks[0][after - 1 :]
        return (last.cpu_s - first.cpu_s) / (len(self.ranks[0]) - after)

    def events(self) -> list[dict[str, Any]]:
        """Lines of the run's events.jsonl; for a run of the launcher only."""
        file = Path(json.loads(self.stdout)["run_dir"], "events.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]


def take_turns(
    sides: Mapping[str, Sequence[str]], scratch: Path, repeat: int
) -> list[list[Trained]]:
    """Every side's trainings, in their order; the sides take turns in going first.

    On a shared machine the same loop computes up to a tenth slower for minutes.
    """
    runs: dict[str, list[Trained]] = {name: [] for name in sides}
    for turn in range(repeat):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            runs[name].append(train(sides[name], scratch / f"{name}-{turn}"))
    return list(runs.values())


def mean_blocked_s(run: Trained, *, at_steps: Collection[int]) -> float:
    """Seconds that the saves of these steps blocked training; of each there must be one."""
    saves = [event for event in run.events() if event["event"] == "checkpoint"]
    blocked = [event["blocked_s"] for event in saves if event["step"] in at_steps]
    require(len(blocked) == len(at_steps), f"{len(blocked)} saves, not {len(at_steps)}")
    return statistics.fmean(blocked)


def environment(**extra: str) -> dict[str, str]:
    """The same for both sides: byte code is kept and one thread computes, as torchrun sets it."""
    own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    path = os.pathsep.join(filter(None, (str(ROOT / "job_specs"), own.get("PYTHONPATH"))))
    return {**own, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **extra}


def launcher_run(job: str, scratch: Path, **sets: object) -> list[str]:
    """`launcher run` of a job in jobs/; `a__b=c` becomes `--set a.b=c`."""
    overrides = [f"--set={key.replace('__', '.')}={value}" for key, value in sets.items()]
    spec = str(JOBS / f"{job}.yaml")
    return [LAUNCHER, "run", spec, f"--storage={scratch}", "--output=json", *overrides]


def bare_run(job: str, *, steps: int, save_every: int = 0, save_to: Path = Path()) -> list[str]:
    """The hand-written DDP loop under torchrun."""
    script = [str(JOBS / "bare.py"), job, str(steps), str(save_every), str(save_to)]
    return [*torchrun(), *script]


def free_port() -> int:
    """One that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def torchrun() -> list[str]:
    """torchrun with its defaults, on a port that nobody uses."""
    port = free_port()
    module = ["-m", "torch.distributed.run"]
    return [PYTHON, *module, f"--nproc_per_node={RANKS}", f"--master_port={port}"]


def train(command: Sequence[str], stamps: Path) -> Trained:
    """Runs a side to its end; FailedRunError with what it said when that is not a good one."""
    started = time.time()
    done = subprocess.run(
        command,
        cwd=stamps.parent,
        env=environment(BENCH_STAMPS=str(stamps)),
        capture_output=True,
        text=True,
        timeout=_LONGEST_RUN_S,
        check=False,
    )
    require(done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}", done.stderr)
    return Trained(
        started=started,
        ranks=tuple(read_stamps(stamps, rank) for rank in range(RANKS)),
        stdout=done.stdout,
    )


def read_stamps(stamps: Path, rank: int) -> tuple[Stamp, ...]:
    """What a rank, and those that took its place, wrote so far."""
    file = stamps.with_name(f"{stamps.name}.{rank}")
    content = file.read_bytes() if file.exists() else b""
    whole = len(content) - len(content) % _STAMP.size
    return tuple(Stamp(*values) for values in _STAMP.iter_unpack(content[:whole]))


def require(condition: bool, message: str, output: str = "") -> None:
    """FailedRunError unless it holds."""
    if not condition:
        raise FailedRunError("\n".join([message, *output.splitlines()[-15:]]))
