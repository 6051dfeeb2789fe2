"""What a command costs before it does anything."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import LAUNCHER, PYTHON, ROOT, environment, require
from benchmarks.report import Row

_SPEC = str(ROOT / "job_specs" / "char_gpt.yaml")
_COMMANDS = {
    "launcher --help": [LAUNCHER, "--help"],
    "launcher validate": [LAUNCHER, "validate", _SPEC],
}
_PEER = "import torch"


def measure(repeat: int, scratch: Path) -> list[Row]:  # noqa: ARG001  # nothing is written
    """Whole processes, start to exit, taking turns; one turn before the first is not counted."""
    commands = {**_COMMANDS, _PEER: [PYTHON, "-c", "import torch"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(repeat + 1):
        for name, command in commands.items():
            seconds = _seconds(command)
            if turn:
                times[name].append(seconds)
    return [
        Row(
            name="cli",
            what=name,
            unit="s",
            ours=tuple(times[name]),
            peer=tuple(times[_PEER]),
            peer_name=_PEER,
            goal=0.12,
        )
        for name in _COMMANDS
    ]


def _seconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    require(done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}", done.stderr)
    return seconds
