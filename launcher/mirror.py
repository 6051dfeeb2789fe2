"""Brings what is new in the folder of a run to its URL, while the ranks go on.

Ranks know of no URL. A run whose storage is a folder has no mirror.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from launcher import checkpoint, rundir
from launcher.errors import StorageError
from launcher.lock import Hold
from launcher.rundir import RunDir

PERIOD_S = 2.0
_COST = 10.0
"""A file that grows is sent again after so many times the seconds that it took."""
_PATIENCE_S = 300.0
"""How long storage that does not answer is waited for, before the run stops for it."""
Signature = tuple[int, int, int]


class Mirror:
    """One host's part of bringing a run to its URL: the files that are its own, and checkpoints."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        own: Callable[[str], bool],
        keep_last: int,
        stored_step: int = 0,
        lost: threading.Event | None = None,
        patience_s: float = _PATIENCE_S,
        give_up: Callable[[], None],
    ) -> None:
        """`own` says which files; checkpoints up to `stored_step` are there already.

        Once `lost` is set nothing is written any more. `give_up` is called when storage did not
        answer for long: to go on training would be in vain.
        """
        self._run_dir = run_dir
        self._own = own
        self._keep_last = keep_last
        self._stored_step = stored_step
        self._lost = lost or threading.Event()
        self._patience_s = patience_s
        self._give_up = give_up
        self._sent: dict[str, Signature] = {n: self._sign(n) for n in self._files()}
        self._due: dict[str, float] = {}
        self._pass = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def start(self) -> Self:
        """Everything that was there before is taken for stored."""
        self._thread.start()
        return self

    def begin_after(self, step: int) -> None:
        """An attempt goes on from the checkpoint of a step: those of later ones are yet to come."""
        self._stored_step = step

    def stop(self) -> None:
        """Sends nothing any more, but for what `settle` is asked to."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def settle(self) -> None:
        """Returns when everything is stored; StorageError when that took too long."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                self._due.clear()
                return self._bring()
            except StorageError:
                if self._lost.is_set() or time.monotonic() > deadline:
                    raise
            time.sleep(PERIOD_S)

    def _follow(self) -> None:
        failing_since: float | None = None
        while not self._closed.wait(PERIOD_S):
            try:
                self._bring()
                self._look_for_stop()
                failing_since = None
            except StorageError as error:
                if failing_since is None:
                    failing_since = time.monotonic()
                    self._event("not_stored", reason=str(error))
                if self._lost.is_set() or time.monotonic() - failing_since > self._patience_s:
                    self._give_up()

    def _bring(self) -> None:
        """Rows go before the checkpoint that a resume would go on from."""
        with self._pass:
            self._bring_files()
            self._bring_checkpoint()

    def _bring_files(self) -> None:
        there = {name: self._sign(name) for name in self._files()}
        changed = [n for n in there if there[n] != self._sent.get(n) and self._is_due(n)]
        for name in sorted(changed, key=lambda name: name != rundir.METRICS):
            started = time.monotonic()
            self._check_held()
            with contextlib.suppress(FileNotFoundError):  # it was replaced meanwhile
                self._run_dir.stored.put(name, self._run_dir.local(name))
                self._sent[name] = there[name]
            now = time.monotonic()
            self._due[name] = now + _COST * (now - started)
        for name in set(self._sent) - set(there):
            self._check_held()
            self._run_dir.stored.remove(name)
            del self._sent[name]

    def _bring_checkpoint(self) -> None:
        steps = checkpoint.committed_steps(self._run_dir)
        if not steps or steps[-1] <= self._stored_step:
            return
        name, started = rundir.checkpoint_name(steps[-1]), time.monotonic()
        self._check_held()
        try:
            checkpoint.publish(self._run_dir, name)
        except FileNotFoundError:  # it was pruned: there is a newer one
            return
        self._stored_step = steps[-1]
        checkpoint.prune(self._run_dir.stored, keep_last=self._keep_last, newest=steps[-1])
        self._event("stored", step=steps[-1], write_s=round(time.monotonic() - started, 3))

    def _look_for_stop(self) -> None:
        if self._own(rundir.EVENTS) and self._run_dir.stored.exists(rundir.STOP):
            self._run_dir.write(rundir.STOP, b"")

    def _check_held(self) -> None:
        if self._lost.is_set():
            raise StorageError(
                f"another launcher has taken {self._run_dir.run_id} over, while this one could "
                "not be seen; nothing more is written here"
            )

    def _is_due(self, name: str) -> bool:
        return time.monotonic() >= self._due.get(name, 0.0)

    def _files(self) -> Iterator[str]:
        """Names of the files that are this host's to bring."""
        top = self._run_dir.local()
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in files:
                name = str(Path(folder, file).relative_to(top))
                if not file.startswith(".") and self._own(name):
                    yield name

    def _sign(self, name: str) -> Signature:
        try:
            status = self._run_dir.local(name).stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return (status.st_ino, status.st_size, status.st_mtime_ns)

    def _event(self, event: str, **values: object) -> None:
        with contextlib.suppress(StorageError):
            self._run_dir.append(rundir.EVENTS, {"time": time.time(), "event": event, **values})


@contextlib.contextmanager
def mirrored(
    run_dir: RunDir,
    *,
    own: Callable[[str], bool],
    keep_last: int,
    hold: Hold,
    patience_s: float = _PATIENCE_S,
    give_up: Callable[[], None],
) -> Iterator[Mirror | None]:
    """While the body runs, what it writes in the run's folder is brought to its URL, if it has one.

    At the end all of it is; StorageError when it is not, and then the folder stays.
    """
    if not run_dir.folder:
        yield None
        return
    mirror = Mirror(
        run_dir,
        own=own,
        keep_last=keep_last,
        lost=hold.lost,
        patience_s=patience_s,
        give_up=give_up,
    )
    mirror.start()
    run_dir.write(rundir.KEPT, b"")
    try:
        yield mirror
    finally:
        mirror.stop()
        try:
            mirror.settle()
        except StorageError as error:
            raise StorageError(
                f"{error}. What is not there is kept in {run_dir.local()}: copy it there"
            ) from error
        run_dir.remove(rundir.KEPT)
