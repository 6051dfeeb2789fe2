"""Tries torch in a process of its own, which may hang or crash without harm.

What that process does is `loopback`'s knowledge.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Trial:
    """What torch did, as far as it came."""

    version: str = ""
    """Empty: it could not be imported."""
    import_s: float = 0.0
    cuda: str = ""
    """CUDA version that it was built for, empty for none."""
    total: float = 0.0
    """Sum of 1 and 2 over two ranks; 0.0: they did not come so far."""
    cuda_devices: int = 0
    trouble: str = ""
    """Why it ended early: the last line of the error."""


def try_torch(*, timeout_s: float) -> Trial:
    """Imports torch, sums a number over two gloo ranks and counts CUDA devices."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "launcher.doctor.loopback"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, error = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, error = process.communicate()
            error = f"no answer within {timeout_s:g} s"
    return read_trial(said, error=error if process.returncode else "")


def read_trial(said: str, *, error: str) -> Trial:
    """The trial from its lines of JSON, each with some of the fields, and its error output."""
    fields: dict[str, Any] = {}
    for line in said.splitlines():
        fields |= json.loads(line)
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return replace(Trial(**fields), trouble=lines[-1] if lines else "")
