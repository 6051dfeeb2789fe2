"""The lock of a run in a folder: the kernel gives it back when the last of its processes is gone.

Works between the processes of one host, and over network file systems that carry flock(2).
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from launcher import rundir, storage
from launcher.lock.hold import Hold, taken
from launcher.resources.cgroups import read_if_there
from launcher.rundir import RunDir

_GRACE_S = 10.0
"""How long ranks of a launcher that was killed may take to notice."""
_POLL_S = 0.02


@contextlib.contextmanager
def held(run_dir: RunDir) -> Iterator[Hold]:
    """Holds the lock; PreflightError when another launcher trains the run."""
    path = run_dir.local(rundir.LOCK)
    with storage.storage_errors(str(path)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, run_dir)
        with storage.storage_errors(str(path)):
            os.ftruncate(descriptor, 0)
            owner = {"pid": os.getpid(), "host": socket.gethostname()}
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield Hold(descriptor)
    finally:
        os.close(descriptor)


def is_held(run_dir: RunDir) -> bool:
    """Whether some process trains the run now."""
    try:
        with storage.reading_errors(run_dir.path(rundir.LOCK)):
            descriptor = os.open(run_dir.local(rundir.LOCK), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)  # others may ask at the same time
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, run_dir: RunDir) -> None:
    deadline = time.monotonic() + _GRACE_S
    while not _try(descriptor, fcntl.LOCK_EX):
        owner = _owner(descriptor)
        if _may_live(owner) or time.monotonic() > deadline:
            raise taken(run_dir, owner)
        time.sleep(_POLL_S)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(descriptor: int) -> dict[str, object]:
    try:
        return dict(json.loads(os.pread(descriptor, 4096, 0)))
    except ValueError:
        return {}


def _may_live(owner: dict[str, object]) -> bool:
    """Whether the process that says it holds the run may still be there."""
    pid = owner.get("pid")
    here = owner.get("host") == socket.gethostname()
    return not here or (isinstance(pid, int) and runs_here(pid))


def runs_here(pid: int) -> bool:
    """Whether there is such a process, other than a dead one that nobody has reaped."""
    _, _, state = read_if_there(Path(f"/proc/{pid}/stat")).rpartition(") ")
    return state[:1] not in ("", "Z")
