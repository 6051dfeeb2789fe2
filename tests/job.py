"""A tiny job and a launcher to run it with, as a person would: a spec file and a subprocess.

What the job computes is in `tests.tiny`; how runs are killed, in `tests.killing`.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher import checkpoint, rundir
from launcher.rundir import RunDir

SAMPLES = 300
GLOBAL_BATCH_SIZE = 32
STEPS_PER_EPOCH = 10  # the last one of 12 samples
MAX_EPOCHS = 3
LAST_STEP = STEPS_PER_EPOCH * MAX_EPOCHS
SEED = 7

_MARK = "LAUNCHER_TEST_MARK"
_TENSORS = rundir.tensor_file("")
_MODULE = Path(__file__).parent / "tiny.py"


def eventually(condition: Callable[[], Any], *, timeout_s: float = 30.0, what: str = "") -> Any:
    """Polls until the condition is true, and returns what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.002)
    return value


def write_job(folder: Path, **changes: Any) -> Path:
    """Writes `job.yaml` and its module; a change is a field with `__` for its dots."""
    spec: dict[str, Any] = {
        "name": "tiny",
        "seed": SEED,
        "model": {"target": "tiny:Net", "args": {}},
        "data": {
            "train": {"target": "tiny:Samples", "args": {"samples": SAMPLES}},
            "eval": {"target": "tiny:Samples", "args": {"samples": 50}},
            "loader": {"num_workers": 0},
        },
        "train": {
            "loss": "torch.nn:CrossEntropyLoss",
            "optimizer": {
                "target": "tiny:RecordingAdamW",
                "args": {"lr": 0.01, "record": str(folder / "steps.jsonl")},
            },
            "schedule": {
                "target": "torch.optim.lr_scheduler:CosineAnnealingLR",
                "args": {"T_max": LAST_STEP},
                "warmup_steps": 4,
            },
            "global_batch_size": GLOBAL_BATCH_SIZE,
            "max_epochs": MAX_EPOCHS,
            "precision": "fp32",
            "clip_grad_norm": 1.0,
        },
        "eval": {"every_steps": 10, "metrics": ["accuracy"]},
        "resources": {"world_size": 2, "cpus_per_rank": 1, "gpus_per_rank": 0},
        "checkpoint": {"every_steps": 4, "keep_last": 3},
        "retries": {"node_loss": 3, "crash": 0, "hang": 0},
    }
    for key, value in changes.items():
        *parents, name = key.split("__")
        section = spec
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_MODULE, folder / "tiny.py")
    path = folder / "job.yaml"
    path.write_text(json.dumps(spec, indent=2))  # JSON is YAML
    return path


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    exit_code: int
    """A signal that killed it is negative."""
    outcome: dict[str, Any]
    """The JSON document on stdout; empty when there was none."""
    stderr: str

    @property
    def error(self) -> dict[str, Any]:
        """The failure in the outcome."""
        found: dict[str, Any] = self.outcome["error"]
        return found


class Command:
    """A launcher process."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self._output = output

    def wait(self, timeout_s: float = 60.0) -> Ended:
        exit_code = self.process.wait(timeout_s)
        stdout = self._output.with_suffix(".out").read_text()
        return Ended(exit_code, json.loads(stdout) if stdout else {}, self.stderr)

    @property
    def stderr(self) -> str:
        """What it said so far."""
        return self._output.with_suffix(".err").read_text()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)


class Launcher:
    """Runs `python -m launcher` on one job, in a folder of its own; a `with` leaves no process."""

    def __init__(self, spec: Path, *, storage: Path | str | None = None) -> None:
        self.spec = spec
        self.folder = spec.parent
        self.storage = str(storage or self.folder / "runs")
        self._mark = uuid.uuid4().hex
        self._commands: list[Command] = []

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            process.kill()
        for command in self._commands:
            command.process.wait()

    def start(self, *arguments: str, terminal: int | None = None) -> Command:
        """With the descriptor of a terminal, its news go there and not to a file."""
        output = self.folder / f"command-{len(self._commands)}-{self._mark}"
        with (
            output.with_suffix(".out").open("wb") as stdout,
            output.with_suffix(".err").open("wb") as stderr,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "launcher", *arguments, "--storage", self.storage],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr if terminal is None else terminal,
                cwd=self.folder,
                env=os.environ | {_MARK: self._mark},
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )
        self._commands.append(Command(process, output))
        return self._commands[-1]

    def start_run(self, *arguments: str) -> Command:
        return self.start("run", str(self.spec), "-o", "json", *arguments)

    def start_resume(self, *arguments: str) -> Command:
        return self.start("resume", "@last", "-o", "json", *arguments)

    def run(self, *arguments: str) -> Ended:
        return self.start_run(*arguments).wait()

    def resume(self, *arguments: str) -> Ended:
        return self.start_resume(*arguments).wait()

    @property
    def run_dirs(self) -> list[RunDir]:
        return rundir.all_runs(self.storage)

    @property
    def run_dir(self) -> RunDir:
        """Of the newest run."""
        return self.run_dirs[-1]

    def rows(self) -> list[dict[str, Any]]:
        """What `metrics.jsonl` of the newest run holds by now."""
        return list(self.run_dir.read_lines(rundir.METRICS)) if self.run_dirs else []

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind that the newest run has by now."""
        if not self.run_dirs:
            return []
        return [e for e in self.run_dir.read_lines(rundir.EVENTS) if e["event"] == kind]

    def steps(self) -> list[int]:
        """Of the newest run's checkpoints."""
        return checkpoint.committed_steps(self.run_dir)

    def reach(self, step: int) -> None:
        """Waits until the row of that step is written."""
        eventually(lambda: any(row["step"] >= step for row in self.rows()), what=f"step {step}")

    def processes(self) -> list[psutil.Process]:
        """Everything that these commands started and that still runs."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def ranks(self) -> list[psutil.Process]:
        """The processes of ranks, in their order."""
        zygotes = self.zygotes()
        found = [child for zygote in zygotes for child in _children(zygote)]
        return sorted(found, key=lambda process: process.pid)

    def loaders(self) -> list[psutil.Process]:
        """The loader workers of all ranks."""
        return [child for rank in self.ranks() for child in _children(rank)]

    def zygotes(self) -> list[psutil.Process]:
        """The processes that fork ranks: children of the launcher's."""
        return [
            process
            for process in self.processes()
            if _command_line(process)[-1:] == ["launcher.engines.zygote"]
            and _command_line(_parent(process))[-1:] != ["launcher.engines.zygote"]
        ]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(_MARK) == self._mark
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False


def _hear_ctrl_c() -> None:
    """Where tests run in the background, a shell has set SIGINT to be ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def _parent(process: psutil.Process) -> psutil.Process | None:
    try:
        return process.parent()
    except psutil.Error:
        return None


def _command_line(process: psutil.Process | None) -> list[str]:
    try:
        return process.cmdline() if process else []
    except psutil.Error:
        return []


def weights(run_dir: RunDir) -> dict[str, str]:
    """Hashes of the newest checkpoint's tensors, model and optimizer."""
    newest = rundir.checkpoint_name(checkpoint.committed_steps(run_dir)[-1])
    files = [f"{newest}/{file}" for file in run_dir.names(newest) if file.endswith(_TENSORS)]
    return {file: hashlib.sha256(run_dir.read(file)).hexdigest() for file in files}


def reproducible(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what a clock put in."""
    clocked = ("time", "samples_per_s")
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows]


def recorded_steps(folder: Path) -> dict[int, dict[int, list[int]]]:
    """By step and rank, the indices of the samples that entered it.

    A step that was done again after a restart must have taken the same ones.
    """
    found: dict[int, dict[int, list[int]]] = {}
    for line in (folder / "steps.jsonl").read_text().splitlines():
        record = json.loads(line)
        ranks = found.setdefault(record["step"], {})
        assert ranks.setdefault(record["rank"], record["indices"]) == record["indices"]
    return found
