"""Streams a run's metrics to where the plan says, from a process of its own."""

import contextlib
from collections.abc import Iterator

from launcher.contracts import StopRequest
from launcher.plan import RunPlan
from launcher.rundir import RunDir
from launcher.tracking.process import TrackingProcess, check_installed

_IMPATIENT_S = 2.0
"""What a person who asked to end at once still waits for W&B."""


def require_trackers(plan: RunPlan) -> None:
    """PreflightError when a tracker of the plan is not installed; imports none of them."""
    if plan.tracking:
        check_installed()


@contextlib.contextmanager
def tracked(run_dir: RunDir, plan: RunPlan, *, stop: StopRequest) -> Iterator[None]:
    """While the body runs, what the run writes is streamed to each tracker of the plan."""
    if not plan.tracking:
        yield
        return
    process = TrackingProcess.start(run_dir)
    try:
        yield
    finally:
        process.close(timeout_s=_IMPATIENT_S if stop.at_once.is_set() else None)
