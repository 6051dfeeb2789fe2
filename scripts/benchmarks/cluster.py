"""From a command to the first optimizer step on a Ray cluster that runs already."""

import json
import subprocess
import time
from pathlib import Path

from benchmarks.processes import JOBS, LAUNCHER, PYTHON, RANKS, read_stamps, require
from benchmarks.ray_cluster import Cluster, running
from benchmarks.report import Row

_STEPS = 5
_TIMEOUT_S = 300.0


def measure(repeat: int, scratch: Path) -> list[Row]:
    """Two ranks of one CPU each, the model of char_gpt.yaml, a head on this machine with two CPUs.

    Ours is `launcher submit`, so it counts the sending of code and the start of a job, too. The
    peer is Ray Train's minimal example, its script started directly on the cluster. Until both
    ranks have done their first optimizer step. One turn before the first is not counted.
    """
    stamps = scratch / "stamps"
    turns = []
    with running(scratch, stamps=stamps, cpus=RANKS) as cluster:
        for _ in range(repeat + 1):
            ours = _first_step(_submit(), cluster, stamps)
            turns.append((ours, _first_step(_ray_train(cluster), cluster, stamps)))
    return [
        Row(
            name="cluster",
            what="submit to first step on a running Ray cluster, 2 ranks",
            unit="s",
            ours=tuple(ours for ours, _ in turns[1:]),
            peer=tuple(peer for _, peer in turns[1:]),
            peer_name="Ray Train's minimal example",
            goal=0.5,
        )
    ]


def _submit() -> list[str]:
    spec = str(JOBS / "gpt.yaml")
    sets = [f"--set=train.max_steps={_STEPS}", "--set=resources.world_size=2"]
    return [LAUNCHER, "submit", spec, "--cluster", "bench", "--wait", *sets]


def _ray_train(cluster: Cluster) -> list[str]:
    asked = {"steps": _STEPS, "ranks": [RANKS, RANKS], "storage": str(cluster.storage / "ray")}
    return [PYTHON, str(JOBS / "ray_train.py"), json.dumps(asked)]


def _first_step(command: list[str], cluster: Cluster, stamps: Path) -> float:
    for rank in range(RANKS):
        stamps.with_name(f"{stamps.name}.{rank}").unlink(missing_ok=True)
    started = time.time()
    done = subprocess.run(
        command,
        env=cluster.environment,
        cwd=stamps.parent,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    require(done.returncode == 0, " ".join(command[:3]), done.stdout + done.stderr)
    return max(read_stamps(stamps, rank)[0].time for rank in range(RANKS)) - started
