"""Where a run stands, read from its directory by somebody who does not train it.

How it got there is the driver's knowledge.
"""

import contextlib

from launcher import checkpoint, lock, rundir
from launcher.errors import ExitCode, LauncherError
from launcher.metrics import Follower, Tally
from launcher.outcome import Outcome, Status, failure_of
from launcher.rundir import RunDir


def status_of(run_dir: RunDir) -> Status:
    """`lost`: its launcher was killed before it could say how the run ended."""
    if lock.is_held(run_dir):
        return "running"
    ended = run_dir.read_json(rundir.OUTCOME)
    status: Status = ended["status"] if ended else "lost"
    return status


def outcome_of(run_dir: RunDir) -> Outcome:
    """How the run ended; of one that is running or was lost, how far it has come."""
    status = status_of(run_dir)
    if status not in ("running", "lost"):
        return Outcome.model_validate(run_dir.read_json(rundir.OUTCOME))
    tally = Tally()
    with contextlib.closing(Follower(run_dir)) as follower:
        for row in follower.new_rows():
            tally.add(row)
    return Outcome(
        run_id=run_dir.run_id,
        status=status,
        exit_code=ExitCode.STILL_RUNNING if status == "running" else ExitCode.LOST,
        run_dir=run_dir.path(),
        attempts=len(attempts(run_dir)),
        step=tally.step,
        epoch=tally.epoch,
        metrics=tally.metrics,
        checkpoint=newest_checkpoint(run_dir, up_to=tally.step),
        error=None,
    )


def refusal(run_dir: RunDir, error: LauncherError) -> Outcome:
    """The outcome of a run that was refused before it could be described."""
    return Outcome(
        run_id=run_dir.run_id,
        status="failed",
        exit_code=error.exit_code,
        run_dir=run_dir.path(),
        attempts=0,
        step=0,
        epoch=0,
        metrics={},
        checkpoint=None,
        error=failure_of(error),
    )


def newest_checkpoint(run_dir: RunDir, *, up_to: int) -> str | None:
    """Path of the newest committed checkpoint of the steps that were done.

    One of a later step was passed over as damaged when the run went on from before it.
    """
    steps = [step for step in checkpoint.committed_steps(run_dir) if step <= up_to]
    return run_dir.path(rundir.checkpoint_name(steps[-1])) if steps else None


def attempts(run_dir: RunDir) -> list[int]:
    """The numbers of the run's attempts."""
    numbers = (rundir.attempt_number(name) for name in run_dir.names(rundir.LOGS))
    return [number for number in numbers if number]
