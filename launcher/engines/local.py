"""Several ranks on this host: talks to the process that forks and watches them.

That process (`zygote`) has imported torch and nothing else happened in it, so forking it is quick
and safe, at a restart as well. This side never imports torch.
"""

import contextlib
import json
import selectors
import subprocess
import sys
from typing import IO, cast

from launcher.contracts import Attempt, StopRequest
from launcher.outcome import AttemptEnd, Failure
from launcher.plan import RunPlan
from launcher.resources import inherited_environment

_POLL_S = 0.2


class LocalEngine:
    """The ranks of a run on this host, over all its attempts."""

    restartable = True
    shows_output = False

    def __init__(self, plan: RunPlan, *, lock_fd: int) -> None:
        """`lock_fd`, the run's lock, stays open in every process, so it outlives none of them."""
        self._threads_per_rank = plan.ranks.threads_per_rank
        self._lock_fd = lock_fd
        self._zygote = self._start_zygote()

    def run(self, attempt: Attempt, *, stop: StopRequest) -> AttemptEnd:
        if self._zygote.returncode is not None:
            self._zygote = self._start_zygote()
        self._send("start", **_as_json(attempt))
        try:
            line = self._wait_for_end(stop)
        except KeyboardInterrupt:
            self.close()
            return AttemptEnd(status="stopped")
        if not line:
            self.close()
            return _lost(self._zygote.returncode)
        return AttemptEnd.model_validate_json(line)

    def _wait_for_end(self, stop: StopRequest) -> bytes:
        asked = False
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while not selector.select(_POLL_S):
                if stop.graceful.is_set() and not asked:
                    self._send("stop")
                    asked = True
        return self._stdout.readline()

    def close(self) -> None:
        """End of input is what the other side ends at, with all its ranks."""
        with contextlib.suppress(BrokenPipeError):  # it was gone before it read everything
            self._stdin.close()
        self._zygote.wait()
        self._stdout.close()

    def _start_zygote(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.engines.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._lock_fd],
            start_new_session=True,
            env=inherited_environment(OMP_NUM_THREADS=str(self._threads_per_rank)),
        )

    @property
    def _stdin(self) -> IO[bytes]:
        return cast(IO[bytes], self._zygote.stdin)

    @property
    def _stdout(self) -> IO[bytes]:
        return cast(IO[bytes], self._zygote.stdout)

    def _send(self, command: str, **values: object) -> None:
        try:
            self._stdin.write(json.dumps({"command": command, **values}).encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            return  # it is gone; its closed output says so to `run`


def _lost(exit_code: int) -> AttemptEnd:
    """The end of an attempt whose ranks nobody watched any more; they died with their parent."""
    who = "the process that watches the ranks"
    failure = (
        Failure(kind="lost", rank=0, message=f"{who} was killed")
        if exit_code < 0
        else Failure(kind="bug", rank=0, message=f"{who} ended with code {exit_code}")
    )
    return AttemptEnd(status="failed", failure=failure)


def _as_json(attempt: Attempt) -> dict[str, object]:
    return {
        "plan": attempt.plan.model_dump(mode="json"),
        "run_dir": attempt.run_dir,
        "number": attempt.number,
        "checkpoint": attempt.checkpoint,
    }
