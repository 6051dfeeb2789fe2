"""What W&B receives, or its offline record holds, is the rows of `metrics.jsonl`, each once.

The real client runs; a stand-in server takes the place of the service.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import rundir
from launcher.rundir import RunDir
from launcher.tracking.process import TrackingProcess, longest_end_s
from tests.plans import make_plan
from tests.wandb_server import WandbServer, wandb_server

pytest.importorskip("wandb", reason="wandb is not installed")

from wandb.proto.wandb_internal_pb2 import Record

pytestmark = pytest.mark.integration

RUN_ID = "digits-20261122-134501-3fa9"
KEY = "5ec2e7" * 6 + "cafe"
BLOCK = 32768


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
        yield server


def make_run(folder: Path, *, mode: str) -> RunDir:
    run_dir = rundir.create(str(folder), RUN_ID)
    tracking = {"project": "digits", "entity": "", "mode": mode, "tags": ["nightly"]}
    plan = make_plan(storage=str(folder), tracking=[tracking])
    run_dir.write_json(rundir.PLAN, plan.model_dump(mode="json"))
    return run_dir


def write_rows(run_dir: RunDir, steps: range) -> None:
    for step in steps:
        row = {"step": step, "epoch": 1, "time": 1.7e9 + step, "loss": 1 / step}
        run_dir.append(rundir.METRICS, row)


def write_outcome(run_dir: RunDir, status: str) -> None:
    run_dir.write_json(rundir.OUTCOME, {"status": status})


def track_more(run_dir: RunDir, steps: range, *, status: str = "succeeded") -> bool:
    """One launcher's part: rows come while the process runs."""
    with TrackingProcess.start(run_dir) as process:
        write_rows(run_dir, steps)
        write_outcome(run_dir, status)
        return process.close()


def eventually(condition: Callable[[], object], *, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


def written_rows(run_dir: RunDir) -> list[dict[str, Any]]:
    return list(run_dir.read_lines(rundir.METRICS))


def own_values(row: dict[str, Any]) -> dict[str, Any]:
    """Without what W&B adds."""
    return {key: value for key, value in row.items() if not key.startswith("_")}


def records(run_dir: RunDir) -> list[Path]:
    return sorted(run_dir.local(rundir.WANDB).glob("*run-*/*.wandb"))


def recorded_rows(path: Path) -> list[dict[str, Any]]:
    return [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in row.history.item}
        for row in map(Record.FromString, chunks(path.read_bytes()))
        if row.HasField("history")
    ]


def chunks(content: bytes) -> Iterator[bytes]:
    """The messages of a W&B record: LevelDB's log format after a header of 7 bytes."""
    position, message = 7, b""
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), position + 6
        message += content[position + 7 : position + 7 + length]
        if content[kind] in (1, 4):  # a whole message, or the last part of one
            yield message
            message = b""
        position += 7 + length


def processes_of(run_dir: RunDir) -> list[psutil.Process]:
    """The tracking process and wandb-core: what runs below it has its log open."""
    log = os.path.realpath(run_dir.local(rundir.WANDB_LOG))
    return [process for process in psutil.process_iter() if log in open_by(process)]


def open_by(process: psutil.Process) -> set[str]:
    folder = Path(f"/proc/{process.pid}/fd")
    try:
        return {str(entry.readlink()) for entry in folder.iterdir()}
    except OSError:
        return set()


def test_an_offline_record_is_one_whole_run_also_after_a_resume(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, mode="offline")
    assert track_more(run_dir, range(1, 31), status="stopped")
    assert track_more(run_dir, range(31, 51))
    (record,) = records(run_dir)
    assert record.name == f"run-{RUN_ID}.wandb"
    assert list(map(own_values, recorded_rows(record))) == written_rows(run_dir)
    assert [row["_step"] for row in recorded_rows(record)] == list(range(1, 51))
    assert not processes_of(run_dir)


def test_online_every_row_arrives_once_over_a_kill_and_a_resume(
    tmp_path: Path, server: WandbServer
) -> None:
    run_dir = make_run(tmp_path, mode="online")
    with TrackingProcess.start(run_dir) as process:
        write_rows(run_dir, range(1, 21))
        eventually(lambda: run_dir.exists(rundir.WANDB_RUN))
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: not processes_of(run_dir))
        assert not process.close()
    assert track_more(run_dir, range(21, 31), status="stopped")
    assert track_more(run_dir, range(31, 41))

    assert list(map(own_values, server.rows(RUN_ID))) == written_rows(run_dir)
    assert [row["_step"] for row in server.rows(RUN_ID)] == list(range(1, 41))
    assert server.rows(RUN_ID)[0]["_timestamp"] == 1.7e9 + 1
    assert server.exit_code[RUN_ID] == 0
    assert server.config[RUN_ID]["seed"]["value"] == 7
    written = run_dir.read_json(rundir.WANDB_RUN) or {}
    assert written["url"] == f"{server.url}/us/digits/runs/{RUN_ID}"
    for file in run_dir.local().rglob("*"):
        if file.is_file():
            assert not re.search(f"{KEY}|hunter2".encode(), file.read_bytes()), file


def test_a_service_that_stops_to_answer_is_left_in_time_and_the_rest_can_be_sent_later(
    tmp_path: Path, server: WandbServer
) -> None:
    run_dir = make_run(tmp_path, mode="online")
    with TrackingProcess.start(run_dir, patience_s=1.0) as process:
        eventually(lambda: run_dir.exists(rundir.WANDB_RUN))
        server.wedged.set()
        write_rows(run_dir, range(1, 31))
        write_outcome(run_dir, "succeeded")
        start = time.monotonic()
        assert not process.close()
        assert time.monotonic() - start < longest_end_s(1.0)
    assert not processes_of(run_dir)
    (record,) = records(run_dir)
    assert list(map(own_values, recorded_rows(record))) == written_rows(run_dir)

    server.wedged.clear()
    (remedy,) = re.findall(r'remedy="(.*)"', run_dir.read(rundir.WANDB_LOG).decode())
    subprocess.run(remedy, shell=True, check=True)
    assert list(map(own_values, server.rows(RUN_ID))) == written_rows(run_dir)


def test_a_service_that_refuses_the_rows_is_not_taken_for_one_that_has_them(
    tmp_path: Path, server: WandbServer
) -> None:
    server.refuses.set()
    assert not track_more(make_run(tmp_path, mode="online"), range(1, 11))


def test_a_service_that_never_answers_leaves_an_offline_record(
    tmp_path: Path, server: WandbServer
) -> None:
    server.wedged.set()
    run_dir = make_run(tmp_path, mode="online")
    with TrackingProcess.start(run_dir, patience_s=1.0) as process:
        write_rows(run_dir, range(1, 11))
        assert not process.close()
    record = records(run_dir)[0]
    assert record.parent.name.startswith("offline-run-")
    assert list(map(own_values, recorded_rows(record))) == written_rows(run_dir)
    assert b"event=online_refused" in run_dir.read(rundir.WANDB_LOG)


def test_a_driver_that_dies_takes_the_tracking_with_it_and_the_run_counts_as_failed(
    tmp_path: Path, server: WandbServer
) -> None:
    run_dir = make_run(tmp_path, mode="online")
    write_rows(run_dir, range(1, 11))
    driver = (
        "import os, sys\n"
        "from launcher.rundir import RunDir\n"
        "from launcher.tracking.process import TrackingProcess\n"
        "process = TrackingProcess.start(RunDir(sys.argv[1]))\n"
        "os.fork() and os._exit(9)\n"  # the other one is a rank that outlives the driver
        "os.read(0, 1)\n"
    )
    rank = subprocess.Popen([sys.executable, "-c", driver, run_dir.url], stdin=subprocess.PIPE)
    with rank:
        assert rank.wait() == 9
        eventually(lambda: RUN_ID in server.exit_code)
        eventually(lambda: not processes_of(run_dir))
    assert server.exit_code[RUN_ID] == 1
    assert list(map(own_values, server.rows(RUN_ID))) == written_rows(run_dir)
