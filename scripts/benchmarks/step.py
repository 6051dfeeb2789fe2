"""The time of a step with every feature on, against a loop that has none."""

import statistics
from pathlib import Path

from benchmarks.processes import bare_run, launcher_run, take_turns
from benchmarks.report import Row

_STEPS = 260
_WARM_UP = 60
_EVERY = 70
_GOAL = 1.02


def measure(repeat: int, scratch: Path) -> list[Row]:
    """On this machine's own processes; see `_rows`."""
    return _rows("step", repeat, scratch)


def measure_on_ray(repeat: int, scratch: Path) -> list[Row]:
    """With ranks on a private Ray; see `_rows`."""
    return _rows("ray-step", repeat, scratch, "--engine=ray")


def _rows(name: str, repeat: int, scratch: Path, *arguments: str) -> list[Row]:
    """Two ranks of one thread each train the model of char_gpt.yaml, both sides in turns.

    Ours writes metrics and streams them to an offline W&B run, clips gradients and saves every
    70 steps: three saves within the steps that count. The peer clips gradients and does nothing
    else. Model, batch, loader (no worker processes), fused AdamW, fp32 and threads are the same. A
    step lasts from one end of rank 0's optimizer step to the next; the first 60 steps, in which
    W&B starts, do not count on either side. CPU time is that of rank 0's process on all its
    threads: W&B runs in another one.

    A side's run is half a minute, and the sides take turns in going first.
    """
    command = launcher_run(
        "gpt",
        scratch,
        train__max_steps=_STEPS,
        checkpoint__every_steps=_EVERY,
        tracking="{wandb: {project: bench, mode: offline}}",
    )
    sides = {"ours": [*command, *arguments], "peer": bare_run("gpt", steps=_STEPS)}
    ours, peer = take_turns(sides, scratch, repeat)
    return [
        Row(
            name=name,
            what=f"{what}, metrics + W&B + checkpoints on",
            unit="ms",
            ours=tuple(1e3 * of(run) for run in ours),
            peer=tuple(1e3 * of(run) for run in peer),
            peer_name="bare DDP loop",
            goal=goal,
        )
        for what, of, goal in (
            ("median step", lambda run: statistics.median(run.step_times_s(after=_WARM_UP)), _GOAL),
            ("mean step", lambda run: statistics.fmean(run.step_times_s(after=_WARM_UP)), _GOAL),
            ("CPU time of a rank's step", lambda run: run.step_cpu_s(after=_WARM_UP), None),
        )
    ]
