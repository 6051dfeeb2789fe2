"""Kills a run at chosen moments, and says how its end differs from that of an unbroken one.

`scripts/killtest` does it at random, the integration tests at a handful of fixed moments.
"""

import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from launcher import rundir
from tests.job import Command, Ended, Launcher, recorded_steps, reproducible, weights

Victim = Literal["rank 0", "rank 1", "loader", "launcher", "zygote", "all"]
"""`loader`: a rank's loader worker; `zygote`: the process that forks the ranks."""
Moment = Literal["start", "attempt", "training", "save"]

VICTIMS: tuple[Victim, ...] = ("rank 0", "rank 1", "loader", "launcher", "zygote", "all")
_POLL_S = 0.003
_ORPHANS_S = 3.0
"""How long after the end of a run a process of it may still be on its way out."""
_MOMENT_S = 60.0


@dataclass(frozen=True)
class Kill:
    """Who is killed, and when; moments count from the last kill or the start of the run."""

    victim: Victim
    moment: Moment
    at: float
    """start: seconds; training: rows more; attempt, save: which of those that come."""
    extra_s: float = 0.0
    """Seconds after that moment."""

    def __str__(self) -> str:
        return f"{self.victim} at {self.moment} {self.at:.3g}+{self.extra_s * 1000:.0f}ms"


@dataclass(frozen=True)
class Story:
    """A run that was killed and came to an end all the same."""

    end: Ended
    struck: tuple[str, ...]
    """What each kill hit, in words."""
    launches: int


def random_kills(dice: random.Random) -> tuple[Kill, ...]:
    """One kill, or a second one in the restart or resume that follows the first."""
    first = _random_kill(dice, dice.choice(("start", "training", "save", "save")))
    if dice.random() < 0.4:
        return (first, _random_kill(dice, dice.choice(("start", "start", "training", "save"))))
    return (first,)


def _random_kill(dice: random.Random, moment: Moment) -> Kill:
    at: dict[Moment, float] = {
        "start": dice.uniform(0.0, 3.0),
        "training": dice.randint(1, 20),
        "save": dice.randint(1, 4),
    }
    longest_s = 0.06 if moment == "save" else 0.1
    return Kill(dice.choice(VICTIMS), moment, at[moment], extra_s=dice.uniform(0.0, longest_s))


def survive(launcher: Launcher, kills: Sequence[Kill], *arguments: str) -> Story:
    """Trains to the end, killing on the way; what the launcher does not restart is resumed."""
    command = launcher.start_run(*arguments)
    launches, struck = 1, []
    for kill in kills:
        _await(kill, launcher, command)
        struck.append(_strike(kill.victim, launcher, command))
        if struck[-1].startswith(("launcher", "all")):
            command.process.wait()
            command = _go_on(launcher, *arguments)
            launches += 1
    end = command.wait(120.0)
    return Story(end, tuple(struck), launches)


def differences(launcher: Launcher, reference: Launcher) -> list[str]:
    """What an interrupted run has that the unbroken one has not, or the other way round."""
    found = []
    if weights(launcher.run_dir) != weights(reference.run_dir):
        found.append("weights differ")
    found += _row_differences(reproducible(launcher.rows()), reproducible(reference.rows()))
    if launcher.steps() != reference.steps():
        found.append(f"checkpoints {launcher.steps()}, not {reference.steps()}")
    folders = launcher.run_dir.names(rundir.CHECKPOINTS)
    if len(folders) != len(launcher.steps()):
        found.append(f"folders without a manifest among {folders}")
    if recorded_steps(launcher.folder) != recorded_steps(reference.folder):
        found.append("other samples")
    return found + orphans(launcher)


def orphans(launcher: Launcher) -> list[str]:
    """Processes of a run that outlive it."""
    deadline = time.monotonic() + _ORPHANS_S
    while left := launcher.processes():
        if time.monotonic() > deadline:
            return [f"still running: {process}" for process in left]
        time.sleep(_POLL_S)
    return []


def _row_differences(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> list[str]:
    steps = [row["step"] for row in rows]
    if steps != sorted(set(steps)):
        return ["steps do not increase"]
    missing = [row["step"] for row in expected if row["step"] not in steps]
    if missing:
        return [f"no row for steps {missing}"]
    other = [mine["step"] for mine, theirs in zip(rows, expected, strict=False) if mine != theirs]
    return [f"other values at steps {other}"] if rows != expected else []


def _await(kill: Kill, launcher: Launcher, command: Command) -> None:
    """Returns at the moment of a kill, or when the run is over before it came."""
    deadline = time.monotonic() + _MOMENT_S
    rows, started, saves, saving = len(launcher.rows()), time.monotonic(), 0.0, False
    attempts = len(launcher.events("attempt"))
    while command.process.poll() is None and time.monotonic() < deadline:
        match kill.moment:
            case "start":
                come = time.monotonic() - started >= kill.at
            case "attempt":
                come = len(launcher.events("attempt")) - attempts >= kill.at
            case "training":
                come = len(launcher.rows()) - rows >= kill.at
            case "save":
                was, saving = saving, _is_saving(launcher)
                saves += saving and not was
                come = saves >= kill.at
        if come:
            break
        time.sleep(_POLL_S)
    time.sleep(kill.extra_s)


def _is_saving(launcher: Launcher) -> bool:
    """Whether there is a folder that is not a checkpoint yet."""
    if not launcher.run_dirs:
        return False
    folder = launcher.run_dir.local(rundir.CHECKPOINTS)
    return any(not (step / rundir.MANIFEST).exists() for step in folder.glob("*"))


def _strike(victim: Victim, launcher: Launcher, command: Command) -> str:
    """Kills the victim, or what there is of it so early; says what that was, and when."""
    if command.process.poll() is not None:
        return "nothing, it had ended"
    ranks, zygotes = launcher.ranks(), launcher.zygotes()
    chosen, name = [psutil.Process(command.process.pid)], "launcher"
    if victim == "all":
        chosen, name = launcher.processes(), "all"
    elif victim == "zygote" and zygotes:
        chosen, name = zygotes, "zygote"
    elif victim == "loader" and (loaders := launcher.loaders()):
        chosen, name = loaders[-1:], "loader"
    elif victim.startswith("rank") and len(ranks) == 2:
        chosen, name = [ranks[int(victim[-1])]], victim
    rows = launcher.rows()
    for process in chosen:
        _kill(process)
    half = " in a save" if _is_saving(launcher) else ""
    return f"{name} ({len(chosen)}) at step {rows[-1]['step'] if rows else 0}{half}"


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it was quicker
        process.kill()


def _go_on(launcher: Launcher, *arguments: str) -> Command:
    """Resumes; a run that was killed before it was described is run anew."""
    described = launcher.run_dirs and launcher.run_dir.exists(rundir.PLAN)
    return launcher.start_resume() if described else launcher.start_run(*arguments)
