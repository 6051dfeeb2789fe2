"""A Ray cluster of this machine alone, while its `with` lasts."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import JOBS, LAUNCHER, PYTHON, environment, free_port, require

_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Cluster:
    """Where it is, and the environment of those who use it."""

    url: str
    environment: dict[str, str]
    storage: Path


@contextlib.contextmanager
def running(folder: Path, *, stamps: Path, cpus: int) -> Iterator[Cluster]:
    """A head with so many CPUs, whose ranks write their stamps there."""
    port, dashboard = free_port(), free_port()
    path = os.pathsep.join([environment()["PYTHONPATH"], str(JOBS)])
    values = environment(
        HOME=str(folder),
        RAY_AUTH_MODE="token",
        PYTHONPATH=path,
        BENCH_STAMPS=str(stamps),
        PATH=f"{Path(PYTHON).parent}:{os.environ['PATH']}",
    )
    token = folder / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    command = [PYTHON, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", f"--num-cpus={cpus}"]
    with (folder / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, env=values, stdout=log, stderr=log, cwd=folder)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        name = [LAUNCHER, "cluster", "add", "bench", url, f"--token-file={token}"]
        storage = folder / "runs"
        subprocess.run([*name, f"--storage={storage}"], env=values, check=True, capture_output=True)
        _await_jobs(head, values, folder)
        yield Cluster(url, {**values, "RAY_ADDRESS": f"127.0.0.1:{port}"}, storage)
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait()


def _await_jobs(head: "subprocess.Popen[bytes]", values: dict[str, str], folder: Path) -> None:
    """Returns when it takes jobs; the first one also brings the launcher's code there."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    listing = [LAUNCHER, "ls", "--cluster", "bench"]
    (folder / "runs").mkdir()
    while subprocess.run(listing, env=values, capture_output=True, check=False).returncode:
        require(head.poll() is None and time.monotonic() < deadline, "Ray did not start")
