"""A rank hangs: how long until the run knows, with the stack of every rank in the logs."""

import json
import subprocess
from pathlib import Path

from benchmarks.processes import JOBS, LAUNCHER, RANKS, environment, read_stamps, require
from benchmarks.report import Row

_HANG = 12
"""The exit code of a hang."""
_AT_STEP = 30


def measure(repeat: int, scratch: Path) -> list[Row]:
    """The model of char_gpt.yaml, two ranks; rank 1 stops in its 30th forward. Nothing in the spec
    says what a hang is. From the end of the last step until the failure is in events.jsonl."""
    found = tuple(_verdict(scratch, scratch / f"stamps-{turn}") for turn in range(repeat))
    return [
        Row(
            name="hang",
            what="hang to verdict with every rank's stack",
            unit="s",
            ours=found,
            peer=(),
            peer_name="(Ray Train 600 s, NCCL 1800 s by default)",
            goal=60.0,
        )
    ]


def _verdict(scratch: Path, stamps: Path) -> float:
    model = f"--set=model={{target: workload:hanging_gpt, args: {{at_forward: {_AT_STEP}}}}}"
    command = [LAUNCHER, "run", str(JOBS / "gpt.yaml"), f"--storage={scratch}", "--output=json"]
    done = subprocess.run(
        [*command, model, "--set=retries.hang=0"],
        env=environment(BENCH_STAMPS=str(stamps)),
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    require(done.returncode == _HANG, "the run did not end as a hang", done.stderr)
    run_dir = Path(json.loads(done.stdout)["run_dir"])
    logs = [log.read_text() for log in sorted(run_dir.glob("logs/attempt-0001/rank-*.log"))]
    require(
        len(logs) == RANKS and all("most recent call first" in log for log in logs),
        "a rank's stack is missing",
    )
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    (failure,) = [event for event in events if event["event"] == "failure"]
    last = max(read_stamps(stamps, rank)[-1].time for rank in range(RANKS))
    return float(failure["time"] - last)
