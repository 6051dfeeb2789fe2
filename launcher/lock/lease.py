"""The lock of a run at a URL: a file that its holder renews every few seconds, and takes away.

Whoever writes for the holder looks first whether the lease is still its own: a launcher that could
not be seen for a while has lost the run to whoever went on with it.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher import rundir, storage
from launcher.errors import StorageError
from launcher.lock.flock import runs_here
from launcher.lock.hold import Hold, taken
from launcher.rundir import RunDir

_RENEW_S = 4.0
_EXPIRES_S = 20.0
"""A lease that is not renewed for this long is nobody's any more."""
_SKEW_S = 10.0
"""By how much the clock of somebody who only looks may differ from the holder's."""
_POLL_S = 0.5
_SETTLE_S = 1.0
"""Two that take over an old lease at the same time have both written by then; the last has it."""


@contextlib.contextmanager
def held(run_dir: RunDir) -> Iterator[Hold]:
    """Holds the lease; PreflightError when another launcher trains the run.

    After a launcher that was killed, it is given once its lease is seen to be left alone.
    """
    run_dir, token = run_dir.stored, secrets.token_hex(8)
    _acquire(run_dir, token)
    descriptor = os.open(os.devnull, os.O_RDONLY)
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=[run_dir, token, ended], daemon=True)
    thread.start()
    try:
        yield Hold(descriptor, token)
    finally:
        ended.set()
        thread.join()
        os.close(descriptor)
        with contextlib.suppress(StorageError):
            if is_ours(run_dir, token):
                run_dir.remove(rundir.LOCK)


def is_held(run_dir: RunDir) -> bool:
    """Whether some process trains the run now, by its clock and ours."""
    lease = _read(run_dir.stored)
    return lease is not None and time.time() - lease["renewed"] < _EXPIRES_S + _SKEW_S


def is_ours(run_dir: RunDir, token: str) -> bool:
    """Whether the run is still held by the launcher that was given this token."""
    lease = _read(run_dir.stored)
    return lease is not None and lease["token"] == token


def _acquire(run_dir: RunDir, token: str) -> None:
    """Takes the lease, if nobody has it, or nobody has renewed it while we looked."""
    seen, since = _read(run_dir), time.monotonic()
    abandoned = False
    while seen is not None and not abandoned:
        abandoned = _is_dead_here(seen) or time.monotonic() - since > _EXPIRES_S
        if not abandoned:
            time.sleep(_POLL_S)
            now = _read(run_dir)
            if now is not None and now != seen:
                raise taken(run_dir, now)
            seen = now
    place = run_dir.path(rundir.LOCK)
    if not storage.write_new(place, _content(token)) and (abandoned or _read(run_dir) is None):
        run_dir.remove(rundir.LOCK)
        storage.write_new(place, _content(token))
        time.sleep(_SETTLE_S)
    if not is_ours(run_dir, token):
        raise taken(run_dir, _read(run_dir) or {})


def _keep(run_dir: RunDir, token: str, ended: threading.Event) -> None:
    """Renews the lease until `ended`, or until it is another's."""
    while not ended.wait(_RENEW_S):
        with contextlib.suppress(StorageError):  # it is tried again; others wait that long
            if not is_ours(run_dir, token):
                return
            storage.write(run_dir.path(rundir.LOCK), _content(token))


def _read(run_dir: RunDir) -> dict[str, Any] | None:
    """The lease; a file of that name which is none, such as a folder's lock, counts as none."""
    with contextlib.suppress(ValueError):
        found = run_dir.read_json(rundir.LOCK)
        if isinstance(found, dict) and {"token", "renewed"} <= found.keys():
            return found
    return None


def _content(token: str) -> bytes:
    lease: dict[str, Any] = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "where": _where(),
        "token": token,
        "renewed": time.time(),
    }
    return json.dumps(lease).encode()


def _is_dead_here(lease: dict[str, Any]) -> bool:
    """Whether its process was one that could be seen from here, and is gone."""
    return lease.get("where") == _where() and not runs_here(lease["pid"])


def _where() -> str:
    """Which processes can be seen: those of this boot, in this process's namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
