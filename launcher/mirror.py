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

from launcher import checkpoint, lock, rundir
from launcher.errors import StorageError
from launcher.rundir import RunDir

PERIOD_S = 2.0
_COST = 10.0
"""A file that grows is sent again after so many times the seconds that it took."""
_PATIENCE_S = 300.0
"""How long storage that does not answer is waited for, before the run stops for it."""
Signature = tuple[int, int, int]


class Mirror:
    """One host's part of bringing a run to its URL: the files that are its own, and checkpoints.

    What is removed from the folder stays there.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        token: str,
        own: Callable[[str], bool],
        keep_last: int,
        stored_step: int = 0,
        patience_s: float = _PATIENCE_S,
        give_up: Callable[[], None],
    ) -> None:
        """`own` says which files; what is there by now, and checkpoints up to a step, are stored.

        Nothing is written unless the run is still held with `token`. `give_up` is called when it
        is not, or storage did not answer for long: to go on training would be in vain.
        """
        self.gave_up = ""
        """Why, if it did."""
        self._run_dir = run_dir
        self._token = token
        self._own = own
        self._keep_last = keep_last
        self._stored_step = stored_step
        self._patience_s = patience_s
        self._give_up = give_up
        self._sent: dict[str, Signature] = {name: self._sign(name) for name in self._files()}
        self._due: dict[str, float] = {}
        self._pass = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def start(self) -> Self:
        """Looks every few seconds from now on. Until the end, the folder has what nothing else has.

        A launcher that finds it later brings that, if this one was killed.
        """
        self._run_dir.write(rundir.KEPT, self._run_dir.url.encode())
        self._thread.start()
        return self

    def stop(self) -> None:
        """Sends nothing any more, but for what `settle` is asked to."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def begin_after(self, step: int) -> None:
        """An attempt goes on from the checkpoint of a step: those of later ones are yet to come."""
        with self._pass:
            checkpoint.discard_after(self._run_dir, step)
            self._stored_step = step

    def settle(self) -> None:
        """Returns when everything is stored; StorageError when that took too long."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                self._due.clear()
                return self._bring()
            except NotOursError:
                raise
            except StorageError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(PERIOD_S)

    def end(self) -> None:
        """The last thing: settles, and lets the folder go; StorageError that says where it is."""
        self.stop()
        try:
            self.settle()
        except StorageError as error:
            kept = f"What is not there is kept in {self._run_dir.local()}"
            raise StorageError(f"{error}. {kept}") from error
        self._run_dir.remove(rundir.KEPT)
        if self.gave_up:
            raise StorageError(f"{self.gave_up}. It took too long; all is stored by now")

    def _follow(self) -> None:
        failing_since: float | None = None
        while not self._closed.wait(PERIOD_S):
            try:
                self._bring()
                failing_since = None
            except StorageError as error:
                if failing_since is None:
                    failing_since = time.monotonic()
                    self._event("not_stored", reason=str(error))
                too_long = time.monotonic() - failing_since > self._patience_s
                if isinstance(error, NotOursError) or too_long:
                    self.gave_up = str(error)
                    self._give_up()

    def _bring(self) -> None:
        with self._pass:
            if self._token and not lock.is_ours(self._run_dir, self._token):
                raise NotOursError(
                    f"another launcher has taken {self._run_dir.run_id} over, while this one could "
                    "not be seen; it writes nothing there any more"
                )
            self._bring_checkpoint()
            for name in self._files():
                if self._is_due(name):
                    self._bring_file(name)

    def _bring_checkpoint(self) -> None:
        """The newest, after the rows that a resume from it goes on from."""
        steps = checkpoint.committed_steps(self._run_dir)
        if not steps or steps[-1] <= self._stored_step:
            return
        step, started = steps[-1], time.monotonic()
        name = rundir.checkpoint_name(step)
        try:
            with checkpoint.linked(self._run_dir, name) as files:
                self._bring_file(rundir.METRICS)
                checkpoint.publish(self._run_dir, name, files)
        except FileNotFoundError:  # it was pruned: there is a newer one
            return
        self._stored_step = step
        checkpoint.prune(self._run_dir.stored, keep_last=self._keep_last, newest=step)
        self._event("stored", step=step, write_s=round(time.monotonic() - started, 3))

    def _bring_file(self, name: str) -> None:
        signature, started = self._sign(name), time.monotonic()
        if signature == self._sent.get(name):
            return
        with contextlib.suppress(FileNotFoundError):  # it is being replaced
            self._run_dir.bring(name)
            self._sent[name] = signature
        now = time.monotonic()
        self._due[name] = now + _COST * (now - started)

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


class NotOursError(StorageError):
    """The run is another launcher's by now."""


@contextlib.contextmanager
def mirrored(
    run_dir: RunDir,
    *,
    token: str,
    own: Callable[[str], bool],
    keep_last: int,
    patience_s: float = _PATIENCE_S,
    give_up: Callable[[], None],
) -> Iterator[Mirror | None]:
    """While the body runs, what it writes in the run's folder is brought to its URL, if it has one.

    At the end all of it is; StorageError when it is not. A wish to stop that somebody leaves at the
    URL comes to the folder.
    """
    if not run_dir.folder:
        yield None
        return
    mirror = Mirror(
        run_dir, token=token, own=own, keep_last=keep_last, patience_s=patience_s, give_up=give_up
    )
    ended = threading.Event()
    listening = threading.Thread(target=_listen, args=[run_dir, ended], daemon=True)
    mirror.start()
    listening.start()
    try:
        yield mirror
    finally:
        ended.set()
        mirror.end()


def _listen(run_dir: RunDir, ended: threading.Event) -> None:
    while not ended.wait(PERIOD_S):
        with contextlib.suppress(StorageError):
            if run_dir.stored.exists(rundir.STOP):
                run_dir.write(rundir.STOP, b"")
