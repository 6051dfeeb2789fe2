"""Who trains a run now, so that two launchers never train one run."""

from contextlib import AbstractContextManager

from launcher.lock import flock, lease
from launcher.lock.hold import Hold
from launcher.rundir import RunDir

__all__ = ["Hold", "held", "is_held", "is_ours"]


def held(run_dir: RunDir) -> AbstractContextManager[Hold]:
    """Holds the run; PreflightError when another launcher trains it."""
    return flock.held(run_dir) if run_dir.stored.is_local else lease.held(run_dir)


def is_held(run_dir: RunDir) -> bool:
    """Whether some process trains the run now."""
    return flock.is_held(run_dir) if run_dir.stored.is_local else lease.is_held(run_dir)


def is_ours(run_dir: RunDir, token: str) -> bool:
    """Whether a run at a URL is still held by the launcher whose hold has this token."""
    return lease.is_ours(run_dir, token)
