"""The actor on each host: owns the zygote there, and passes messages to and from it.

It imports no torch, so it is there at once; the ranks are forked by the zygote as on one machine.
"""

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher import rundir
from launcher.engines.libraries import missing
from launcher.engines.protocol import News, Order, Said, Start, never_started, parse_message
from launcher.engines.ray.outpost import Outpost
from launcher.engines.zygote_process import ZygoteProcess
from launcher.errors import LauncherError, StorageError
from launcher.outcome import Failure, failure_of
from launcher.resources import lacking_secrets, own_python_path
from launcher.resources.network import interface_environment
from launcher.resources.secrets import find_secrets
from launcher.rundir import RunDir
from launcher.storage import is_url

_SLICE_S = 0.2
"""How often it shows that it is asked, and looks for what rank 0 has written."""
_UNHEARD_S = 16.0
"""A driver that does not ask for so long is cut off from here, and has given this host up."""


class Host:
    """One host's ranks, over all attempts in which it takes part. Its messages are JSON."""

    def __init__(
        self,
        address: str,
        *,
        threads_per_rank: int,
        secrets: Sequence[str],
        libraries: Sequence[str],
        imports: Sequence[str],
    ) -> None:
        self._address = address
        self._libraries = libraries
        found, self._lacking = find_secrets(secrets, home=Path.home())
        self._outpost: Outpost | None = None
        self._said: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._asked_at = time.monotonic()
        self._training = False
        self._zygote = ZygoteProcess(
            imports=imports,
            environment={
                "OMP_NUM_THREADS": str(threads_per_rank),
                "PYTHONPATH": own_python_path(),
                **interface_environment(address),
                **found,
            },
        )
        threading.Thread(target=self._leave_when_cut_off, daemon=True).start()

    def problems(self, run_dir: str, marker: str) -> list[str]:
        """What keeps ranks from training here; `marker` is what the driver wrote to the run."""
        found = [lacking_secrets(self._lacking, host=self._address)] if self._lacking else []
        found += missing(self._libraries, host=self._address)
        return found + storage_problems(RunDir(run_dir), marker, host=self._address)

    def tell(self, line: str) -> None:
        """Passes on a message of the engine."""
        message = parse_message(line)
        if isinstance(message, Start):
            self._asked_at, self._training = time.monotonic(), True
            if is_url(message.run_dir):
                try:
                    message = self._open_outpost(message)
                except Exception as error:  # noqa: BLE001  # nobody would hear of it otherwise
                    self._said.put(never_started(message, self._failure(error)))
                    return
        self._zygote.tell(message)

    def hear(self, *, timeout_s: float) -> list[str] | None:
        """What is new within the time; None: the zygote is gone."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._asked_at = time.monotonic()
            left_s = max(0.0, deadline - self._asked_at)
            news = self._zygote.hear(timeout_s=min(_SLICE_S, left_s))
            said = [*self._grown(), *news]
            if any(isinstance(each, News) and each.state == "ended" for each in said):
                self._training = False
            if said or time.monotonic() >= deadline:
                return [each.model_dump_json() for each in said]
            if self._zygote.gone:
                return None

    def _grown(self) -> Iterator[Said]:
        """What rank 0 has written, and what this host itself has to say."""
        if self._outpost:
            yield from self._outpost.growth()
        while not self._said.empty():
            yield self._said.get()

    def settle(self) -> str:
        """Brings all of the attempt to the run's URL; what is in the way of that."""
        return self._outpost.settle() if self._outpost else ""

    def close(self) -> None:
        """Leaves no process behind."""
        self._zygote.close()
        if self._outpost:
            self._outpost.close()

    def _failure(self, error: Exception) -> Failure:
        where = f"host {self._address}"
        if isinstance(error, LauncherError):
            failure = failure_of(error)
            return failure.model_copy(update={"message": f"{where}: {failure.message}"})
        return Failure(kind="bug", message=f"{where}: {error!r}", rank=0)

    def _open_outpost(self, start: Start) -> Start:
        if self._outpost:
            self._outpost.close()
            self._outpost = None
        self._outpost = Outpost(start, give_up=lambda: self._zygote.tell(Order(command="stop")))
        return self._outpost.start

    def _leave_when_cut_off(self) -> None:
        """Ranks that go on here would train, and save, beside those in their place elsewhere."""
        while not (self._training and time.monotonic() - self._asked_at > _UNHEARD_S):
            time.sleep(1.0)
        os._exit(1)  # and the zygote with its ranks, when their pipe closes


def storage_problems(run_dir: RunDir, marker: str, *, host: str) -> list[str]:
    """Why this host cannot keep a run there: it sees another folder, or may not write."""
    own = f"{rundir.PROBE}-{host}"
    try:
        if not run_dir.exists(rundir.PROBE) or run_dir.read(rundir.PROBE).decode() != marker:
            return [
                f"host {host} does not see in {run_dir.url} what the head wrote there; name a "
                "storage that all hosts share"
            ]
        run_dir.write(own, marker.encode())
        run_dir.remove(own)
    except (StorageError, FileNotFoundError) as error:
        return [f"host {host}: {error}"]
    return []
