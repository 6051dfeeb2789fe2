"""The lock of a run at a URL: a file that its holder renews every few seconds, and takes away.

A holder that was not seen for a while has lost it, and learns that before it writes again.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from launcher import rundir, storage
from launcher.errors import StorageError
from launcher.lock.hold import Hold, may_live, taken
from launcher.rundir import RunDir

_RENEW_S = 4.0
_EXPIRES_S = 20.0
"""A lease that is not renewed for this long is nobody's any more."""
_SKEW_S = 10.0
"""By how much the clock of somebody who only looks may differ from the holder's."""
_POLL_S = 0.5


@contextlib.contextmanager
def held(run_dir: RunDir) -> Iterator[Hold]:
    """Holds the lease; PreflightError when another launcher trains the run.

    After a launcher that was killed, it is given once its lease is seen to be left alone.
    """
    lease = _Lease(run_dir.stored)
    lease.acquire()
    descriptor = os.open(os.devnull, os.O_RDONLY)
    hold = Hold(descriptor)
    ended = threading.Event()
    thread = threading.Thread(target=lease.keep, args=[hold.lost, ended], daemon=True)
    thread.start()
    try:
        yield hold
    finally:
        ended.set()
        thread.join()
        os.close(descriptor)
        lease.release()


def is_held(run_dir: RunDir) -> bool:
    """Whether some process trains the run now, by its clock and ours."""
    lease = run_dir.stored.read_json(rundir.LOCK)
    return lease is not None and time.time() - lease["renewed"] < _EXPIRES_S + _SKEW_S


class _Lease:
    """One launcher's claim to a run."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._place = run_dir.path(rundir.LOCK)
        self._token = secrets.token_hex(8)

    def acquire(self) -> None:
        """Takes the lease, if nobody has it, or nobody has renewed it while we looked."""
        seen, since = self._run_dir.read_json(rundir.LOCK), time.monotonic()
        while seen is not None:
            if not may_live(seen) or time.monotonic() - since > _EXPIRES_S:
                self._run_dir.remove(rundir.LOCK)
                break
            time.sleep(_POLL_S)
            now = self._run_dir.read_json(rundir.LOCK)
            if now is not None and now != seen:
                raise taken(self._run_dir, now)
            seen = now
        if not storage.write_new(self._place, self._content()):
            raise taken(self._run_dir, self._run_dir.read_json(rundir.LOCK) or {})

    def keep(self, lost: threading.Event, ended: threading.Event) -> None:
        """Renews the lease until `ended`; sets `lost` where it is another's by now."""
        while not ended.wait(_RENEW_S):
            with contextlib.suppress(StorageError):  # it is tried again; others wait that long
                if not self._is_mine():
                    lost.set()
                    return
                storage.write(self._place, self._content())

    def release(self) -> None:
        """Gives it back, if it is still ours."""
        with contextlib.suppress(StorageError):
            if self._is_mine():
                self._run_dir.remove(rundir.LOCK)

    def _is_mine(self) -> bool:
        found = self._run_dir.read_json(rundir.LOCK)
        return found is not None and found["token"] == self._token

    def _content(self) -> bytes:
        lease: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "token": self._token,
            "renewed": time.time(),
        }
        return json.dumps(lease).encode()
