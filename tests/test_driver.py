"""A run from its first attempt to its outcome, with an engine that only says how attempts end."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from launcher import driver, lock, rundir
from launcher.contracts import Attempt, Engine, StopRequest
from launcher.engines import EngineChoice
from launcher.outcome import AttemptEnd, Failure, Kind, Outcome
from launcher.resources import this_host
from tests.fakes import Silence
from tests.plans import make_plan

GOOD = AttemptEnd(status="succeeded")


def failed(kind: Kind = "lost", message: str = "rank 1: killed by SIGKILL") -> AttemptEnd:
    return AttemptEnd(status="failed", failure=Failure(kind=kind, message=message, rank=1))


class Scripted:
    """An engine whose attempts end as listed; each of them writes rows up to a step first."""

    name = "scripted"
    restartable = True
    shows_output = True

    def __init__(self, ends: Sequence[tuple[int, AttemptEnd | BaseException]]) -> None:
        self._ends = list(ends)
        self.closed = False

    def run(self, attempt: Attempt, *, stop: StopRequest) -> AttemptEnd:  # noqa: ARG002
        step, end = self._ends.pop(0)
        run_dir = attempt.run_dir
        if step:
            run_dir.append(rundir.EVENTS, {"event": "training", "attempt": attempt.number})
        for number in range(rundir.checkpoint_step(attempt.checkpoint) + 1, step + 1):
            row = {"step": number, "epoch": 1, "time": 0.0, "loss": 1.0 / number}
            run_dir.append(rundir.METRICS, row)
        if isinstance(end, BaseException):
            raise end
        return end

    def close(self) -> None:
        self.closed = True


class Run:
    """Conducts a run with scripted attempts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan = make_plan(storage=str(folder))
        self.run_dir = rundir.create(str(folder), self.plan.run_id)
        self._patch = monkeypatch

    def __call__(self, *ends: tuple[int, AttemptEnd | BaseException]) -> Outcome:
        engine = Scripted(ends)

        def open_engine(*_: Any, **__: Any) -> AbstractContextManager[Engine]:
            return nullcontext(engine)

        self._patch.setattr(driver, "open_engine", open_engine)
        with lock.held(self.run_dir) as hold:
            return driver.conduct(
                self.run_dir,
                self.plan,
                driver.Description("name: digits\n", (), this_host(), datetime.now(UTC)),
                engine=EngineChoice("local"),
                hold=hold,
                stop=StopRequest(),
                audience=Silence(),
            )

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.run_dir.read_lines(rundir.EVENTS) if e["event"] == kind]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_a_lost_rank_is_followed_by_another_attempt_and_the_outcome_counts_both(run: Run) -> None:
    outcome = run((3, failed()), (10, GOOD))
    assert (outcome.status, outcome.exit_code, outcome.attempts) == ("succeeded", 0, 2)
    assert (outcome.step, outcome.metrics) == (10, {"loss": 0.1})
    assert [event["restart"] for event in run.events("failure")] == [True]
    assert run.run_dir.read_json(rundir.OUTCOME) == outcome.model_dump(mode="json")


def test_when_retries_are_spent_the_last_failure_is_the_outcome(run: Run) -> None:
    outcome = run(*[(step, failed()) for step in (2, 3, 4, 5)])
    assert (outcome.exit_code, outcome.attempts, outcome.step) == (13, 4, 5)
    assert "all are used" in run.events("failure")[-1]["reason"]


def test_the_rows_of_steps_that_no_checkpoint_holds_are_cut_off_before_the_next_attempt(
    run: Run,
) -> None:
    run((3, failed()), (2, GOOD))
    assert [row["step"] for row in run.run_dir.read_lines(rundir.METRICS)] == [1, 2]


def test_a_second_ctrl_c_at_any_moment_leaves_an_outcome(run: Run) -> None:
    outcome = run((3, KeyboardInterrupt()))
    assert (outcome.status, outcome.exit_code, outcome.step) == ("stopped", 20, 3)
    assert run.run_dir.exists(rundir.OUTCOME)


def test_the_record_of_an_earlier_launch_is_kept(run: Run) -> None:
    run((1, failed("bug")))
    first = run.run_dir.read_json(rundir.RECORD)
    run((10, GOOD))
    run((10, GOOD))
    record = run.run_dir.read_json(rundir.RECORD)
    assert first
    assert record
    oldest, _ = record["earlier"]
    assert oldest["created"] == first["created"]


def test_a_change_with_which_nothing_came_to_train_is_taken_back(run: Run) -> None:
    run((10, GOOD))
    before = run.run_dir.read(rundir.PLAN)
    run.plan = run.plan.model_copy(update={"seed": 8})
    run((0, failed("spec", "size mismatch")))
    assert run.run_dir.read(rundir.PLAN) == before
