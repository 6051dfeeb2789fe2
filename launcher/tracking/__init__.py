"""Streams a run's metrics to where the plan says, from a process of its own."""

import contextlib
from collections.abc import Iterator

from launcher.plan import RunPlan
from launcher.rundir import RunDir


@contextlib.contextmanager
def tracked(run_dir: RunDir, plan: RunPlan) -> Iterator[None]:
    """While the body runs, what the run writes is streamed to each tracker of the plan."""
    if not plan.tracking:
        yield
        return
    from launcher.tracking.process import TrackingProcess

    with TrackingProcess.start(run_dir):
        yield
