"""Ways to start ranks: the measurement behind the choice of forking them from one process."""

import json
import subprocess
import time
from pathlib import Path

from benchmarks.processes import JOBS, PYTHON, environment, require
from benchmarks.report import Row

_OURS = "fork"
_PEERS = ("forkserver, torch preloaded", "forkserver", "spawn")


def measure(repeat: int, scratch: Path) -> list[Row]:
    """Two ranks to their first all-reduce over gloo: jobs/meeting.py, the ways taking turns.

    The first start runs from before the process is started, the restart from when the second pair
    of ranks is asked for in the same process, as after a failure; both end when the slower rank
    has its sum. One turn before the first is not counted. `fork` imports torch once and forks both
    ranks, as the launcher's zygote does; `forkserver` and `spawn` are torch.multiprocessing's; the
    preloaded forkserver is Python's own, from a process that never imports torch.
    """
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(repeat + 1):
        for method in (_OURS, *_PEERS):
            for what, seconds in _meet(method, scratch / f"{method}-{turn}").items():
                if turn:
                    times.setdefault((what, method), []).append(seconds)
    return [
        Row(
            name="start-methods",
            what=f"{what} to first all-reduce: fork once torch is imported",
            unit="s",
            ours=tuple(times[what, _OURS]),
            peer=tuple(times[what, peer]),
            peer_name=peer,
        )
        for what in ("first start", "restart")
        for peer in _PEERS
    ]


def _meet(method: str, folder: Path) -> dict[str, float]:
    folder.mkdir()
    command = [PYTHON, str(JOBS / "meeting.py"), method, str(folder)]
    started = time.time()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}", done.stderr)
    times = json.loads(done.stdout)
    return {
        "first start": times["met"] - started,
        "restart": times["met again"] - times["asked again"],
    }
