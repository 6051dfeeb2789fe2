"""What a host has of a run whose storage is a URL: a folder, and what is new in it.

The files and checkpoints of its ranks it brings to the URL itself. What rank 0 says of the run is
told to the driver, too, who shows it.
"""

import contextlib
from collections.abc import Callable, Iterator

from launcher import checkpoint, rundir, workspace
from launcher.engines.protocol import Growth, Start
from launcher.errors import StorageError
from launcher.mirror import Mirror
from launcher.rundir import RunDir, checkpoint_step, rank_log

_MOST_BYTES = 1 << 20
"""Of one file in one message, however much a rank prints."""


class Outpost:
    """One attempt, as one host has it."""

    def __init__(self, start: Start, *, give_up: Callable[[], None]) -> None:
        """StorageError when the run cannot be read from its URL."""
        self._has_rank_0 = start.first_rank == 0
        self._stack = contextlib.ExitStack()
        self._here = self._stack.enter_context(
            workspace.opened(RunDir(start.run_dir), wanted=self._is_needed)
        )
        checkpoint.fetch(self._here, start.checkpoint)
        plan = workspace.with_code_here(start.plan, self._here)
        self.start = start.model_copy(update={"run_dir": self._here.folder, "plan": plan})
        self._tails = [
            _Tail(self._here, name)
            for name in (rundir.METRICS, rundir.EVENTS, rank_log(start.number, 0))
            if self._has_rank_0
        ]
        self._mirror = Mirror(
            self._here,
            token=start.token,
            own=self._is_own,
            keep_last=plan.checkpoint.keep_last,
            stored_step=checkpoint_step(start.checkpoint),
            give_up=give_up,
        ).start()

    def growth(self) -> Iterator[Growth]:
        """What rank 0's files have by now that was not told before."""
        for tail in self._tails:
            if grown := tail.grown():
                yield grown

    def settle(self) -> str:
        """Brings everything to the URL; what is in the way of that, empty when it is done."""
        try:
            self._mirror.end()
        except StorageError as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Leaves nothing here, unless it is nowhere else."""
        self._mirror.stop()
        self._stack.close()

    def _is_needed(self, name: str) -> bool:
        is_code = name.startswith(f"{rundir.CODE}/")
        return is_code or name == rundir.PLAN or (self._has_rank_0 and name == rundir.METRICS)

    def _is_own(self, name: str) -> bool:
        return workspace.of_ranks(name) or (self._has_rank_0 and name == rundir.METRICS)


class _Tail:
    """A file of the run that only grows, from where it is now."""

    def __init__(self, run_dir: RunDir, name: str) -> None:
        self._path = run_dir.local(name)
        self._name = name
        self._told_bytes = self._path.stat().st_size if self._path.exists() else 0

    def grown(self) -> Growth | None:
        """Its new lines, whole ones."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._told_bytes)
            text = file.read(_MOST_BYTES)
            whole = text[: text.rfind(b"\n") + 1] or (text if len(text) == _MOST_BYTES else b"")
            self._told_bytes += len(whole)
            if whole:
                return Growth(name=self._name, text=whole.decode(errors="replace"))
        return None
