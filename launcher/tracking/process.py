"""Starts and ends the process that streams a run to W&B, so that no rank ever waits for W&B.

What that process does is written in `tracking.wandb`, which is not imported here.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from launcher import rundir, storage
from launcher.errors import PreflightError
from launcher.resources import is_installed
from launcher.rundir import RunDir

PATIENCE_S = 30.0
"""How long a service that does not answer is waited for, at the start and again at the end."""

_log = logging.getLogger(__name__)


def longest_end_s(patience_s: float) -> float:
    """The process is gone this long after it was told to end, whatever the service does."""
    return 2 * patience_s + 15.0  # wandb.init itself waits 10 s longer than it is told to


def tracking_command(run_dir: RunDir) -> list[str]:
    """Streams the run to W&B until its stdin ends; then sends what W&B has not.

    W&B's reports about itself are off: they go out offline too, and wait 10 s when nobody answers.
    """
    quiet = ["/usr/bin/env", "WANDB_ERROR_REPORTING=false"]
    return [*quiet, sys.executable, "-P", "-m", "launcher.tracking.wandb", str(run_dir.local())]


def check_installed() -> None:
    """PreflightError where W&B is missing; nothing is imported."""
    if not is_installed("wandb"):
        raise PreflightError(
            "the spec asks for tracking.wandb, but wandb is not installed here; run "
            "`pip install 'torch-launcher[wandb]'`, or `--set tracking=null` to train without it"
        )


class TrackingProcess:
    """The process that follows one run's metrics."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", *, log: Path, end_timeout_s: float
    ) -> None:
        self._process = process
        self._log_path = log
        self._end_timeout_s = end_timeout_s

    @classmethod
    def start(cls, run_dir: RunDir, *, patience_s: float = PATIENCE_S) -> Self:
        """Needs `plan.json`; returns at once."""
        path = run_dir.local(rundir.WANDB_LOG)
        bounds = ["--patience-s", str(patience_s), "--driver", str(os.getpid())]
        with storage.storage_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as log:
                process = subprocess.Popen(
                    tracking_command(run_dir) + bounds,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is the launcher's
                )
        return cls(process, log=path, end_timeout_s=longest_end_s(patience_s) + 5.0)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self, *, timeout_s: float | None = None) -> bool:
        """Call it when `outcome.json` is written. True: W&B, or its offline record, has every row.

        The process is killed after `timeout_s`; by default that is longer than it ever takes.
        """
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            if not pipe.closed:
                pipe.write(b"\n")  # ends it also where a forked rank still holds the pipe open
                pipe.close()
        try:
            self._process.wait(self._end_timeout_s if timeout_s is None else timeout_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a person may end the wait
            os.killpg(self._process.pid, signal.SIGKILL)  # wandb-core follows within 0.1 s
            self._process.wait()
        if self._process.returncode != 0:
            _log.warning("event=tracking_incomplete see=%s", self._log_path)
        return self._process.returncode == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
