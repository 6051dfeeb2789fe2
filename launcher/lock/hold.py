"""What a launcher has that trains a run, and the word for one that may not."""

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import PreflightError
from launcher.rundir import RunDir


@dataclass(frozen=True)
class Hold:
    """The right to train a run."""

    descriptor: int
    """What child processes keep open, so that the run is held as long as one of them lives."""
    token: str = ""
    """Of the lease of a run at a URL: whoever writes there looks whether it is still this one."""


def taken(run_dir: RunDir, owner: Mapping[str, object]) -> PreflightError:
    """The refusal, for the person who wanted to train it too."""
    return PreflightError(
        f"{run_dir.run_id} is being trained by process {owner.get('pid')} on "
        f"{owner.get('host')}; `launcher stop {run_dir.reference}` ends that with a checkpoint"
    )
