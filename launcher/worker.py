"""The order inside one rank: process group, task, strategy, loop, teardown.

How the rank's process was started, and what becomes of its report, is the engines' knowledge.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from launcher import rundir, saving
from launcher.contracts import Attempt, MetricSink
from launcher.data.loader import StepBatches
from launcher.data.order import Position
from launcher.data.randomness import mix, seed_cpu, seed_rank
from launcher.distributed import ENDLESS_S, Rank, Rendezvous, join_process_group, use_device
from launcher.evaluation import Evaluation
from launcher.failures import describe
from launcher.journal import Journal
from launcher.loop import Training, train
from launcher.metrics import JsonlSink, NullSink
from launcher.outcome import AttemptEnd
from launcher.plan import Deepspeed, RunPlan
from launcher.rundir import RunDir
from launcher.saving import Saver
from launcher.strategies import build_model, make_strategy
from launcher.task import make_task

_MEETING_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Place:
    """What one rank is told by the engine that started it, beside the attempt."""

    rank: Rank
    rendezvous: Rendezvous | None
    """None: this rank is alone."""
    stop_wanted: Callable[[], bool]
    beat: Callable[[], None]
    """Called after each piece of work, for the engine to tell a slow rank from a hung one."""


def run_rank(attempt: Attempt, place: Place) -> AttemptEnd:
    """Trains one rank's part of an attempt to its end, and reports how it ended."""
    run_dir = attempt.run_dir
    try:
        sink: MetricSink = JsonlSink(run_dir) if place.rank.rank == 0 else NullSink()
        with contextlib.closing(sink):
            finished = _train(attempt, run_dir, place, sink)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a rank reports its death
        failure = describe(error, rank=place.rank.rank)
        if failure.traceback:
            print(failure.traceback, file=sys.stderr, flush=True)  # noqa: T201  # the rank's log
        return AttemptEnd(status="failed", failure=failure)
    return AttemptEnd(status="succeeded" if finished else "stopped")


def _train(attempt: Attempt, run_dir: RunDir, place: Place, sink: MetricSink) -> bool:
    """Whether training came to its last step; else it was stopped."""
    plan, rank = attempt.plan, place.rank
    clock = _Clock()
    _prepare_process(plan, rank)
    _meet(plan, place)
    clock.lap("meet_s")
    task = make_task(plan)
    model = build_model(task, plan=plan)
    train_data, eval_data = task.train_data(), task.eval_data()
    clock.lap("build_s")
    strategy = make_strategy(model, plan=plan, rank=rank)
    name = attempt.checkpoint
    start = saving.load(run_dir, name, strategy) if name else Position()
    steps = StepBatches(train_data, plan=plan, rank=rank, start=start)
    clock.lap("load_s")
    if rank.rank == 0:
        _announce(run_dir, attempt, start=start, last_step=steps.last_step, laps=clock.laps)
    saver = Saver(strategy, run_dir, keep_last=plan.checkpoint.keep_last, rank=rank, at=start)
    evaluation = None
    if eval_data is not None:
        evaluation = Evaluation(eval_data, task=task, strategy=strategy, plan=plan, rank=rank)
        evaluation.rehearse()
    journal = Journal(sink, stop_wanted=place.stop_wanted, world_size=rank.world_size)
    with contextlib.closing(saver):
        end = train(
            Training(
                plan=plan,
                seed=lambda step, micro: seed_rank(mix(plan.seed, rank.rank, step, micro)),
                steps=steps,
                task=task,
                strategy=strategy,
                journal=journal,
                saver=saver,
                evaluation=evaluation,
                beat=place.beat,
            ),
            start,
        )
    return end.step >= steps.last_step


def _meet(plan: RunPlan, place: Place) -> None:
    join_process_group(
        place.rank,
        backend=plan.ranks.backend,
        rendezvous=place.rendezvous,
        meeting_timeout_s=_MEETING_TIMEOUT_S,
        collective_timeout_s=ENDLESS_S,
        alone_too=isinstance(plan.strategy, Deepspeed),
    )


def _prepare_process(plan: RunPlan, rank: Rank) -> None:
    """Import path, threads, device and the seed of the initial weights: equal on every rank."""
    if plan.code_dir not in sys.path:
        sys.path.insert(0, plan.code_dir)
    torch.set_num_threads(plan.ranks.threads_per_rank)
    use_device(rank.device)
    seed_cpu(mix(plan.seed))


class _Clock:
    """What setting up has taken, part by part, in seconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now


def _announce(
    run_dir: RunDir,
    attempt: Attempt,
    *,
    start: Position,
    last_step: int,
    laps: dict[str, float],
) -> None:
    run_dir.append(
        rundir.EVENTS,
        {
            "time": time.time(),
            "event": "training",
            "attempt": attempt.number,
            "step": start.step,
            "last_step": last_step,
            **laps,
        },
    )
