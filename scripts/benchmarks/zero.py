"""Strategy deepspeed against DeepSpeed's own engine in a bare loop: a step, a save, a load."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import (
    JOBS,
    LAUNCHER,
    Trained,
    launcher_run,
    mean_blocked_s,
    take_turns,
    torchrun,
    train,
)
from benchmarks.report import Row

_STAGES = (2, 3)
_STEPS = 200
_WARM_UP = 60
_EVERY = 70
_GOAL = 1.02
_SAVED_STEPS = 40
_SAVE_EVERY = 15
_SAVED = range(_SAVE_EVERY, _SAVED_STEPS, _SAVE_EVERY)
"""Without what is saved at the end and after the resume, where no step waits."""


def measure(repeat: int, scratch: Path) -> list[Row]:
    """Two ranks of one thread each train the model of char_gpt.yaml, both sides in turns.

    Ours writes metrics and saves every 70 steps. The peer does nothing beside the engine's
    forward, backward and step. Model, batch, loader, optimizer, clipping and precision (fp32) are
    the same, and so is what a step is taken for: see `step`.
    """
    rows = []
    for stage in _STAGES:
        command = launcher_run(
            "gpt",
            scratch,
            strategy=_strategy(stage),
            train__max_steps=_STEPS,
            checkpoint__every_steps=_EVERY,
        )
        sides = {f"ours-{stage}": command, f"peer-{stage}": _bare("gpt", stage, steps=_STEPS)}
        ours, peer = take_turns(sides, scratch, repeat)
        rows += [
            _step_row(f"{what}, ZeRO {stage}", of, ours, peer)
            for what, of in (("median step", statistics.median), ("mean step", statistics.fmean))
        ]
    return rows


def measure_saves(repeat: int, scratch: Path) -> list[Row]:
    """Two ranks train an MLP whose state with AdamW is 151 MB, and go on from a checkpoint.

    - blocked: `blocked_s` of ours against the time inside `save_checkpoint`; means over a run.
    - load: from the model to an engine with all that was saved: `load_s` of ours, in which every
      byte was verified before, against `initialize` and `load_checkpoint`.
    """
    turns = [_turn(stage, scratch, turn) for stage in _STAGES[:1] for turn in range(repeat)]
    return [
        Row(
            name="zero-save",
            what=f"{what}, 151 MB, ZeRO 2",
            unit="s",
            ours=tuple(ours for ours, _ in values),
            peer=tuple(peer for _, peer in values),
            peer_name=peer_name,
            goal=goal,
        )
        for what, values, peer_name, goal in (
            ("blocked by a save", [turn[0] for turn in turns], "save_checkpoint", 0.1),
            ("engine and load", [turn[1] for turn in turns], "load_checkpoint", None),
        )
    ]


def _turn(stage: int, scratch: Path, turn: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(ours, the peer's) seconds of a save and of a load."""
    storage = scratch / f"runs-{turn}"
    sets = {"strategy": _strategy(stage), "checkpoint__every_steps": _SAVE_EVERY}
    first = launcher_run("mlp", storage, train__max_steps=_SAVED_STEPS, **sets)
    saving = train(first, scratch / f"saving-{turn}")
    run = json.loads(saving.stdout)["run_id"]
    more = f"--set=train.max_steps={_SAVED_STEPS + 5}"
    command = [LAUNCHER, "resume", run, f"--storage={storage}", "--output=json", more]
    resumed = train(command, scratch / f"resumed-{turn}")
    saved_to = scratch / f"save-checkpoint-{turn}"
    saved_to.mkdir()
    bare = _bare("mlp", stage, steps=_SAVED_STEPS, save_every=_SAVE_EVERY, save_to=saved_to)
    train(bare, scratch / f"bare-{turn}")
    theirs = json.loads((saved_to / "times.json").read_text())
    load_s = [e["load_s"] for e in resumed.events() if e["event"] == "training"][-1]
    return (mean_blocked_s(saving, at_steps=_SAVED), statistics.fmean(theirs["saves"])), (
        load_s,
        theirs["load_s"],
    )


def _step_row(
    what: str, of: Callable[[list[float]], float], ours: list[Trained], peer: list[Trained]
) -> Row:
    return Row(
        name="zero-step",
        what=f"{what}, metrics + checkpoints on",
        unit="ms",
        ours=tuple(1e3 * of(run.step_times_s(after=_WARM_UP)) for run in ours),
        peer=tuple(1e3 * of(run.step_times_s(after=_WARM_UP)) for run in peer),
        peer_name="DeepSpeed's bare loop",
        goal=_GOAL,
    )


def _strategy(stage: int) -> str:
    return f"{{name: deepspeed, zero_stage: {stage}}}"


def _bare(
    job: str, stage: int, *, steps: int, save_every: int = 0, save_to: Path = Path()
) -> list[str]:
    """DeepSpeed's loop under torchrun."""
    script = [str(JOBS / "bare_deepspeed.py"), job, str(stage), str(steps), str(save_every)]
    return [*torchrun(), *script, str(save_to)]
