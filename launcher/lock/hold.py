"""What a launcher has that trains a run, and the word for one that may not."""

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import PreflightError
from launcher.resources.cgroups import read_if_there
from launcher.rundir import RunDir


@dataclass(frozen=True)
class Hold:
    """The right to train a run."""

    descriptor: int
    """What child processes keep open, so that the run is held as long as one of them lives."""
    lost: threading.Event = field(default_factory=threading.Event)
    """Set when another launcher took it, while this one could not be seen."""


def taken(run_dir: RunDir, owner: Mapping[str, object]) -> PreflightError:
    """The refusal, for the person who wanted to train it too."""
    return PreflightError(
        f"{run_dir.run_id} is being trained by process {owner.get('pid')} on "
        f"{owner.get('host')}; `launcher stop {run_dir.reference}` ends that with a checkpoint"
    )


def may_live(owner: Mapping[str, object]) -> bool:
    """Whether the process that says it holds a run may still be there."""
    pid = owner.get("pid")
    here = owner.get("host") == socket.gethostname()
    return not here or (isinstance(pid, int) and _runs(pid))


def _runs(pid: int) -> bool:
    """Whether there is such a process, other than a dead one that nobody has reaped."""
    _, _, state = read_if_there(Path(f"/proc/{pid}/stat")).rpartition(") ")
    return state[:1] not in ("", "Z")
