"""A run from start to end: write the plan, start attempts, ask `retry`, record the outcome.

How processes start is the engines' knowledge; how all this looks to a person, the audience's.
"""

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from launcher import checkpoint, metrics, rundir, storage
from launcher.contracts import Attempt, Engine, StopRequest
from launcher.engines import EngineChoice, open_engine
from launcher.errors import ExitCode, LauncherError, PreflightError, StorageError
from launcher.history import attempts, newest_checkpoint
from launcher.lock import Hold
from launcher.mirror import Mirror, mirrored
from launcher.outcome import AttemptEnd, Outcome, failure_of
from launcher.plan import RunPlan
from launcher.record import make_record
from launcher.resources import Resources, secrets_here
from launcher.retry import Failed, Verdict, decide
from launcher.rundir import RunDir
from launcher.tracking import require_trackers, tracked
from launcher.watch import Audience, Watch
from launcher.workspace import of_driver, of_driver_and_ranks


@dataclass(frozen=True)
class Description:
    """What the run directory says of a run beside its plan."""

    spec_text: str
    overrides: tuple[str, ...]
    resources: Resources
    now: datetime


def conduct(
    run_dir: RunDir,
    plan: RunPlan,
    description: Description,
    *,
    engine: EngineChoice,
    hold: Hold,
    stop: StopRequest,
    audience: Audience,
) -> Outcome:
    """Trains the run to its end, through as many attempts as its retries allow.

    The caller holds the run, and has opened it to work in it.
    """
    require_trackers(plan)
    if engine.name != "ray":  # where each host has its own
        secrets_here(plan.secrets)
    run_dir.stored.remove(rundir.STOP)
    for place in (run_dir.stored, run_dir):
        place.remove(rundir.OUTCOME)
    outcome = None
    try:
        with (
            _mirrored(run_dir, plan, engine=engine, hold=hold, stop=stop) as mirror,
            open_engine(engine, plan, hold=hold) as opened,  # imports torch meanwhile
            _described(run_dir, plan, description),
            tracked(run_dir, plan, stop=stop),
            Watch(run_dir, stop=stop, audience=audience) as watch,
        ):
            run = _Run(run_dir, plan, opened, watch=watch, stop=stop, mirror=mirror)
            outcome = run.outcome(_attempts(run))
            with contextlib.suppress(StorageError):  # what is returned says it all the same
                run_dir.write_json(rundir.OUTCOME, outcome.model_dump(mode="json"))
                run.bring_rows()
    except StorageError as error:
        if outcome is None:
            raise
        return outcome if outcome.error else _not_stored(outcome, run_dir, error)
    return outcome


def _mirrored(
    run_dir: RunDir, plan: RunPlan, *, engine: EngineChoice, hold: Hold, stop: StopRequest
) -> AbstractContextManager[Mirror | None]:
    """On a cluster, what ranks write is brought to the run's URL by the hosts that have it."""
    return mirrored(
        run_dir,
        own=of_driver if engine.name == "ray" else of_driver_and_ranks,
        keep_last=plan.checkpoint.keep_last,
        token=hold.token,
        give_up=stop.graceful.set,
    )


def _not_stored(outcome: Outcome, run_dir: RunDir, error: StorageError) -> Outcome:
    """Of a run that ended well, and could not be brought to where it belongs."""
    failure = failure_of(error)
    return outcome.model_copy(
        update={
            "status": "failed",
            "exit_code": failure.exit_code,
            "checkpoint": _newest_seen(run_dir.stored, up_to=outcome.step),
            "error": failure,
        }
    )


def _newest_seen(*places: RunDir, up_to: int) -> str | None:
    """The newest checkpoint of the first place that has one; None also where none can be seen."""
    with contextlib.suppress(StorageError):
        for place in places:
            if found := newest_checkpoint(place, up_to=up_to):
                return found
    return None


def _attempts(run: "_Run") -> AttemptEnd:
    """How the last attempt ended, also where something ended it between two."""
    try:
        return run.attempts()
    except KeyboardInterrupt:
        return AttemptEnd(status="stopped")
    except LauncherError as error:
        return AttemptEnd(status="failed", failure=failure_of(error))


@contextlib.contextmanager
def _described(run_dir: RunDir, plan: RunPlan, description: Description) -> Iterator[None]:
    """While the body runs, the run is what it is trained as now.

    A change with which no attempt came to train is taken back: the next resume does without it.
    """
    names = (rundir.SPEC, rundir.RECORD, rundir.PLAN)
    before = {name: run_dir.read(name) for name in names if run_dir.exists(name)}
    trained = len(_trainings(run_dir))
    _describe(run_dir, plan, description)
    try:
        yield
    finally:
        if len(before) == len(names) and len(_trainings(run_dir)) == trained:
            for name, content in before.items():
                run_dir.write(name, content)


def _trainings(run_dir: RunDir) -> list[dict[str, Any]]:
    """The events of attempts that came to train."""
    return [e for e in run_dir.read_lines(rundir.EVENTS) if e["event"] == "training"]


def _describe(run_dir: RunDir, plan: RunPlan, description: Description) -> None:
    record = make_record(
        code_dir=plan.code_dir,
        overrides=description.overrides,
        resources=description.resources,
        now=description.now,
        earlier=run_dir.read_json(rundir.RECORD),
    )
    run_dir.write(rundir.SPEC, description.spec_text.encode())
    run_dir.write_json(rundir.RECORD, record)
    run_dir.write_json(rundir.PLAN, plan.model_dump(mode="json"))


class _Run:
    """One launcher's part in a run: its attempts, one after the other."""

    def __init__(
        self,
        run_dir: RunDir,
        plan: RunPlan,
        engine: Engine,
        *,
        watch: Watch,
        stop: StopRequest,
        mirror: Mirror | None,
    ) -> None:
        self._run_dir = run_dir
        self._plan = plan
        self._engine = engine
        self._watch = watch
        self._stop = stop
        self._mirror = mirror
        self._number = max(attempts(run_dir.stored), default=0)
        self._failed: list[Failed] = []

    def attempts(self) -> AttemptEnd:
        """How the last attempt ended."""
        while True:
            attempt = self._prepare()
            self._event("attempt", engine=self._engine.name, checkpoint=attempt.checkpoint)
            end = self._engine.run(attempt, stop=self._stop)
            self._watch.catch_up()
            if end.to_resize:
                self._event("resize")
                continue
            if end.failure is None:
                return end
            start_step = rundir.checkpoint_step(attempt.checkpoint)
            self._failed.append(
                Failed(end.failure, start_step=start_step, end_step=self._watch.tally.step)
            )
            verdict = self._decide()
            self._event(
                "failure",
                step=self._watch.tally.step,
                **end.failure.model_dump(),
                restart=verdict.restart,
                reason=verdict.reason,
            )
            if not verdict.restart:
                return end

    def outcome(self, end: AttemptEnd) -> Outcome:
        with contextlib.suppress(StorageError):  # what was read so far says it all the same
            self._watch.catch_up()
        tally = self._watch.tally
        codes = {"succeeded": ExitCode.SUCCEEDED, "stopped": ExitCode.STOPPED}
        return Outcome(
            run_id=self._run_dir.run_id,
            status=end.status,
            exit_code=end.failure.exit_code if end.failure else codes[end.status],
            run_dir=self._run_dir.path(),
            attempts=self._number,
            step=tally.step,
            epoch=tally.epoch,
            metrics=tally.metrics,
            checkpoint=_newest_seen(self._run_dir, self._run_dir.stored, up_to=tally.step),
            error=end.failure,
        )

    def bring_rows(self) -> None:
        """To the run's URL: those that a host which was lost had told, and not brought itself."""
        if self._mirror:
            self._mirror.settle()
            metrics.complete(self._run_dir)

    def _prepare(self) -> Attempt:
        """Chooses the checkpoint, and cuts off what a killed attempt left half-done after it."""
        self._number += 1
        self.bring_rows()
        choice = checkpoint.newest_valid(self._run_dir.stored)
        for reason in choice.passed_over:
            self._event("passed_over", reason=reason)
        if choice.passed_over and not choice.name:
            raise PreflightError(
                "no checkpoint of this run can be trusted: "
                + "; ".join(choice.passed_over)
                + f"; start the job anew: {rundir.RECORD} has its command, {rundir.PLAN} its values"
            )
        checkpoint.remove_unfinished(self._run_dir.stored)
        step = rundir.checkpoint_step(choice.name)
        metrics.rewind(self._run_dir, step=step)
        if self._mirror:
            self._mirror.begin_after(step)
        log = self._run_dir.local(rundir.rank_log(self._number, 0))
        with storage.storage_errors(str(log)):
            log.parent.mkdir(parents=True, exist_ok=True)
        self._watch.start_attempt(None if self._engine.shows_output else log)
        return Attempt(
            plan=self._plan,
            run_dir=self._run_dir,
            number=self._number,
            checkpoint=choice.name,
        )

    def _decide(self) -> Verdict:
        if not self._engine.restartable:
            return Verdict(restart=False, reason="a rank in this process is not restarted")
        if self._stop.graceful.is_set():
            return Verdict(restart=False, reason="it was asked to stop")
        return decide(self._failed, self._plan.retries)

    def _event(self, event: str, **values: Any) -> None:
        self._run_dir.append(
            rundir.EVENTS,
            {"time": time.time(), "event": event, "attempt": self._number, **values},
        )
