"""Runs the only rank in this process, so that `breakpoint()` and `pdb` work.

What that costs: a crash of the process is a crash of the launcher, so nothing is restarted here.
"""

import contextlib
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

from launcher import checkpoint, rundir, storage
from launcher.contracts import Attempt, StopRequest
from launcher.engines.libraries import require_here
from launcher.outcome import AttemptEnd
from launcher.resources import secrets_here
from launcher.workspace import with_code_here


class InlineEngine:
    """One rank, this process."""

    name = "inline"
    restartable = False
    shows_output = True

    def run(self, attempt: Attempt, *, stop: StopRequest) -> AttemptEnd:
        require_here(attempt.plan)
        checkpoint.fetch(attempt.run_dir, attempt.checkpoint)
        attempt = replace(attempt, plan=with_code_here(attempt.plan, attempt.run_dir))
        import torch

        from launcher.distributed import Rank, rank_environment, set_environment
        from launcher.worker import Place, run_rank

        device = torch.device(attempt.plan.ranks.device, 0)
        rank = Rank(
            rank=0,
            world_size=1,
            local_rank=0,
            local_world_size=1,
            device=device if device.type == "cuda" else torch.device("cpu"),
        )
        threads = attempt.plan.ranks.threads_per_rank
        set_environment(rank_environment(rank, rendezvous=None, threads=threads))
        set_environment(secrets_here(attempt.plan.secrets))
        with _logged_too(attempt):
            return run_rank(
                attempt,
                Place(
                    rank=rank,
                    rendezvous=None,
                    stop_wanted=stop.graceful.is_set,
                    beat=lambda: None,
                ),
            )

    def close(self) -> None:
        """Ends loader workers, as `multiprocessing` does at exit by a signal that they ignore."""
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()


class _Tee:
    """A stream that also writes to a log."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._log.flush()
        self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _logged_too(attempt: Attempt) -> Iterator[None]:
    path = attempt.run_dir.local(rundir.rank_log(attempt.number, 0))
    with storage.storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("a", buffering=1)
    with (
        log,
        contextlib.redirect_stdout(_Tee(sys.stderr, log)),
        contextlib.redirect_stderr(_Tee(sys.stderr, log)),
    ):
        yield
