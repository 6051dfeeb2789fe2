"""Measures the memory of ranks that really train, beside what was estimated of it.

A rank's peak is the most memory that its process had resident (VmHWM), pages that it shares with
its zygote too, in the rank where that is most.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.processes import PYTHON, ROOT, FailedRunError, environment, require
from benchmarks.report import machine

_LARGE_GPT = ("model.args.n_embd=512", "model.args.n_layer=8", "model.args.n_head=8")
_LARGE_CONFIG = "model.args.config.args"
JOBS: dict[str, tuple[str, ...]] = {
    "char_gpt": (),
    "char_gpt, 8 layers of 512": _LARGE_GPT,
    "char_gpt, 12 layers of 768, 2 samples": (
        "model.args.n_embd=768",
        "model.args.n_layer=12",
        "model.args.n_head=12",
        "train.global_batch_size=4",
    ),
    "char_gpt, 8 layers of 512, recomputed": (*_LARGE_GPT, "train.recompute=[char_gpt:Block]"),
    "digits_cnn": (),
    "digits_cnn, 512 wide": ("model.args.width=512",),
    "hf_gpt2": (),
    "hf_gpt2, 8 layers of 512": (
        f"{_LARGE_CONFIG}.n_embd=512",
        f"{_LARGE_CONFIG}.n_layer=8",
        f"{_LARGE_CONFIG}.n_head=8",
    ),
}
"""The name of a spec, what else, and what is set for it."""

_STEPS = (
    "train.max_steps=4",
    "train.max_epochs=null",
    "checkpoint.every_steps=2",  # so that a backward runs beside its copy
    "data.loader.num_workers=0",
    "data.eval=null",
    "eval=null",
)
_POLL_S = 0.01
_LOG = re.compile(r"/rank-(\d+)\.log$")


@dataclass(frozen=True)
class Peak:
    """One job with one strategy."""

    job: str
    strategy: str
    estimated_bytes: int
    measured_bytes: int

    @property
    def ratio(self) -> float:
        return self.estimated_bytes / self.measured_bytes


def main() -> None:
    """Exits with 1 when a job could not be measured."""
    asked = _arguments()
    peaks: list[Peak] = []
    failed = False
    for job in JOBS:
        if asked.jobs and not {job, job.split(",")[0]} & set(asked.jobs):
            continue
        for strategy in asked.strategies.split(","):
            print(f"measuring {job} with {strategy}", file=sys.stderr)
            try:
                peaks.append(_measure(job, strategy))
                print(_row(peaks[-1]), file=sys.stderr)
            except FailedRunError as error:
                print(f"{job}, {strategy}: {error}", file=sys.stderr)
                failed = True
    print("\n".join(["| job | strategy | estimated | measured | ratio |", "|---|---|---|---|---|"]))
    print("\n".join(map(_row, peaks)))
    if asked.output:
        document = {"machine": machine(), "peaks": [asdict(p) | {"ratio": p.ratio} for p in peaks]}
        asked.output.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(int(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/memory")
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--strategies", default="ddp", help="ddp, zero-0 to zero-3, by commas")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for the values")
    return parser.parse_args()


def _measure(job: str, strategy: str) -> Peak:
    spec = str(ROOT / "job_specs" / f"{job.split(',')[0]}.yaml")
    sets = [f"--set={text}" for text in (*_STEPS, *JOBS[job], *_strategy(strategy))]
    with tempfile.TemporaryDirectory(prefix="launcher-memory-") as folder:
        estimated = _estimate([spec, *sets], strategy)
        peaks = _train([spec, *sets, f"--storage={folder}"])
    require(len(peaks) == 2, f"{len(peaks)} ranks were seen")
    return Peak(job, strategy, estimated, max(peaks.values()))


def _strategy(name: str) -> list[str]:
    if name == "ddp":
        return []
    return ["strategy.name=deepspeed", f"strategy.zero_stage={name.removeprefix('zero-')}"]


def _estimate(arguments: list[str], strategy: str) -> int:
    command = [PYTHON, "-m", "launcher", "plan", *arguments, "--output=json"]
    done = subprocess.run(
        command, cwd=ROOT, env=_own_environment(), capture_output=True, text=True, check=False
    )
    require(done.returncode == 0, "launcher plan failed", done.stderr)
    memory = json.loads(done.stdout)["memory"]
    require(not memory["absent"], memory["absent"])
    (row,) = (row for row in memory["strategies"] if row["strategy"] == strategy)
    require(row["chosen"], f"the plan's strategy is not {strategy}")
    return int(row["device_bytes"])


def _train(arguments: list[str]) -> dict[int, int]:
    """The peak of each rank of a run."""
    command = [PYTHON, "-m", "launcher", "run", *arguments, "--output=json"]
    peaks: dict[int, int] = {}
    with tempfile.TemporaryFile("w+") as news:
        run = psutil.Popen(
            command, cwd=ROOT, env=_own_environment(), stdout=subprocess.DEVNULL, stderr=news
        )
        while run.poll() is None:
            for rank, peak in _ranks(run):
                peaks[rank] = max(peak, peaks.get(rank, 0))
            time.sleep(_POLL_S)
        news.seek(0)
        require(run.returncode == 0, f"launcher run exited with {run.returncode}", news.read())
    return peaks


def _own_environment() -> dict[str, str]:
    """Ranks are of this very launcher, too, wherever the environment has another."""
    own = environment()
    return {**own, "PYTHONPATH": os.pathsep.join((str(ROOT), own["PYTHONPATH"]))}


def _ranks(run: psutil.Process) -> Iterator[tuple[int, int]]:
    """Number and peak of the ranks that live: they are known by the log that they write."""
    try:
        children = run.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for child in children:
        proc = Path("/proc", str(child.pid))
        try:
            log = _LOG.search(str((proc / "fd" / "1").readlink()))
            status = (proc / "status").read_text()
        except OSError:  # it has just ended
            continue
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        if log and peak:
            yield int(log[1]), int(peak[1]) << 10


def _row(peak: Peak) -> str:
    estimated, measured = (
        f"{size / 2**20:,.0f} MiB" for size in (peak.estimated_bytes, peak.measured_bytes)
    )
    return f"| {peak.job} | {peak.strategy} | {estimated} | {measured} | {peak.ratio:.2f} |"
