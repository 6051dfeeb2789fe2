"""A host of two is lost, power cut and all: how long until the run takes its next step."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import JOBS, PYTHON, Stamp, environment, read_stamps, require
from benchmarks.report import Row
from tests.hosts import Host, hosts, missing

_STEPS_BEFORE = 30
_DEADLINE_S = 300.0
_POLL_S = 0.02
_ENDLESS = 1_000_000


def measure(repeat: int, scratch: Path) -> list[Row]:
    """Two hosts of one CPU each in network namespaces, one rank on each, elastic from one rank up;
    the model of char_gpt.yaml, a checkpoint every 20 steps. Every process of the worker host is
    killed after step 30. From there to the next optimizer step of the rank that is left.

    The peer is Ray Train with the same elasticity, no checkpoint, and its own defaults.
    """
    require(not missing(), missing())
    turns = []
    for turn in range(repeat):
        folder = scratch / f"turn-{turn}"
        turns.append((_lose(folder / "ours", _ours), _lose(folder / "peer", _peer)))
    return [
        Row(
            name="node-loss",
            what="a worker host killed to the next step, 2 hosts, elastic",
            unit="s",
            ours=tuple(ours for ours, _ in turns),
            peer=tuple(peer for _, peer in turns),
            peer_name="Ray Train, elastic",
            goal=0.25,
        )
    ]


def _ours(storage: Path) -> list[str]:
    sets = {
        "train.max_steps": _ENDLESS,
        "checkpoint.every_steps": 20,
        "resources.world_size": [1, 2],
        "train.micro_batch_size": 4,
    }
    changes = [f"--set={key}={value}" for key, value in sets.items()]
    command = [PYTHON, "-m", "launcher", "submit", str(JOBS / "gpt.yaml"), "--cluster", "bench"]
    return [*command, f"--storage={storage}", "--wait", *changes]


def _peer(storage: Path) -> list[str]:
    asked = {"steps": _ENDLESS, "ranks": [1, 2], "storage": str(storage)}
    return [PYTHON, str(JOBS / "ray_train.py"), json.dumps(asked)]


def _lose(folder: Path, command: Callable[[Path], list[str]]) -> float:
    """One run on a cluster of its own: seconds from the loss of the worker to the next step."""
    folder.mkdir(parents=True)
    stamps = folder / "stamps"
    path = os.pathsep.join([environment()["PYTHONPATH"], str(JOBS)])
    values = {
        "BENCH_STAMPS": str(stamps),
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "eth0",  # ours finds it; Ray Train must be told
    }
    with hosts("bhead", "bworker", folder=folder) as (head, worker):
        _make_cluster(head, worker, values)
        client = {**values, "RAY_AUTH_MODE": "token", "RAY_ADDRESS": f"{head.address}:6379"}
        output = folder / "output.log"
        process = head.start(*command(folder / "runs"), output=output, environment=client)
        _await(process, output, lambda: _steps_of(stamps) >= _STEPS_BEFORE)
        before = {rank: read_stamps(stamps, rank)[-1].pid for rank in (0, 1)}
        lost = time.time()
        worker.kill()
        _await(process, output, lambda: _after(stamps, lost, before))
        first = _after(stamps, lost, before)
    assert first is not None
    return first.time - lost


def _make_cluster(head: Host, worker: Host, values: dict[str, str]) -> None:
    token = head.home / ".ray" / "auth_token"
    up = ["cluster", "up", "--address", head.address, "--cpus", "1"]
    join = ["cluster", "join", f"{head.address}:6379", "--address", worker.address]
    name = ["cluster", "add", "bench", f"http://{head.address}:8265", "--token-file", str(token)]
    for host, arguments in (
        (head, up),
        (worker, [*join, "--token-file", str(token), "--cpus", "1"]),
        (head, name),
    ):
        done = host.run(PYTHON, "-m", "launcher", *arguments, **values)
        require(done.returncode == 0, " ".join(arguments), done.stderr)


def _steps_of(stamps: Path) -> int:
    return min(len(read_stamps(stamps, rank)) for rank in (0, 1))


def _after(stamps: Path, moment: float, before: dict[int, int]) -> Stamp | None:
    """The first step of a process that was not there before."""
    found = [
        stamp
        for rank in (0, 1)
        for stamp in read_stamps(stamps, rank)
        if stamp.time > moment and stamp.pid not in before.values()
    ]
    return min(found, key=lambda stamp: stamp.time, default=None)


def _await(process: "subprocess.Popen[str]", output: Path, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        require(process.poll() is None, "the run ended early", output.read_text())
        require(time.monotonic() < deadline, "nothing came", output.read_text())
        time.sleep(_POLL_S)
