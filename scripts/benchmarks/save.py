"""What a checkpoint costs the training that it is taken of."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Trained, bare_run, launcher_run, mean_blocked_s, train
from benchmarks.report import Row

_STEPS = 130
_EVERY = 60
_WARM_UP = 10
_NEVER = 1_000_000
_SAVED = range(_EVERY, _STEPS, _EVERY)
"""Without the save at the end, where no step waits."""
_AFTER_SAVE = 8
"""Steps after a save that it may still slow down."""


@dataclass(frozen=True)
class _Turn:
    """What one repetition measured, in seconds."""

    blocked: float
    torch_save: float
    lost: float
    lost_to_torch_save: float
    with_saves: float
    without_saves: float
    cadence: float


def measure(repeat: int, scratch: Path) -> list[Row]:
    """Two ranks train an MLP whose state with AdamW is 151 MB; three trainings take turns.

    (a) The launcher saving every 60 steps, (b) the launcher not saving within the steps that
    count, (c) the bare loop with torch.save on rank 0 every 60 steps, on the same disk. torch.save
    does not wait for the disk; ours does, hashes what it wrote, and only then counts it as saved.

    - blocked: `blocked_s` of the events of (a) against the time inside torch.save in (c); the
      mean over the saves of a run, the first included.
    - lost: what the same saves take from training by the clock: the steps from a save to eight
      steps later, less that many median steps. It counts also what slows training down unseen.
    - run: steps 11 to 130 in (a) against those in (b), two saves within.
    """
    turns = [_turn(scratch, number) for number in range(repeat)]
    cadence = statistics.median(turn.cadence for turn in turns)
    return [
        _row("blocked by a save", [(t.blocked, t.torch_save) for t in turns], goal=0.1),
        _row("training lost by a save", [(t.lost, t.lost_to_torch_save) for t in turns]),
        _row(
            f"run with a checkpoint every {cadence:.0f} s",
            [(t.with_saves, t.without_saves) for t in turns],
            peer_name="without",
            goal=1.035,
        ),
    ]


def _row(
    what: str,
    values: list[tuple[float, float]],
    *,
    peer_name: str = "torch.save",
    goal: float | None = None,
) -> Row:
    return Row(
        name="save",
        what=f"{what}, 151 MB",
        unit="s",
        ours=tuple(ours for ours, _ in values),
        peer=tuple(peer for _, peer in values),
        peer_name=peer_name,
        goal=goal,
    )


def _turn(scratch: Path, number: int) -> _Turn:
    def job(every: int) -> list[str]:
        return launcher_run("mlp", scratch, train__max_steps=_STEPS, checkpoint__every_steps=every)

    saved_to = scratch / f"torch-save-{number}"
    saved_to.mkdir()
    saving = train(job(_EVERY), scratch / f"saving-{number}")
    plain = train(job(_NEVER), scratch / f"plain-{number}")
    command = bare_run("mlp", steps=_STEPS, save_every=_EVERY, save_to=saved_to)
    bare = train(command, scratch / f"bare-{number}")
    with_saves = sum(saving.step_times_s(after=_WARM_UP))
    return _Turn(
        blocked=mean_blocked_s(saving, at_steps=_SAVED),
        torch_save=statistics.fmean(json.loads((saved_to / "saves.json").read_text())),
        lost=_lost(saving),
        lost_to_torch_save=_lost(bare),
        with_saves=with_saves,
        without_saves=sum(plain.step_times_s(after=_WARM_UP)),
        cadence=with_saves / (_STEPS - _WARM_UP) * _EVERY,
    )


def _lost(run: Trained) -> float:
    """Seconds lost to one save, from the times at which steps ended.

    Step k's time is that from optimizer step k-1 to k, so a save after step s begins in s + 1.
    """
    times = run.step_times_s(after=1)
    after = [s - 1 + i for s in _SAVED for i in range(_AFTER_SAVE)]
    usual = statistics.median(times[_WARM_UP:])
    saves = len(after) // _AFTER_SAVE
    return (sum(times[at] for at in after) - usual * len(after)) / saves
