"""One run has one launcher, also where its storage is a URL that knows no locks."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launcher import lock, rundir
from launcher.errors import PreflightError
from launcher.lock import lease
from launcher.rundir import RunDir


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setattr(lease, "_RENEW_S", 0.02)
    monkeypatch.setattr(lease, "_POLL_S", 0.01)
    monkeypatch.setattr(lease, "_SETTLE_S", 0.0)
    monkeypatch.setattr(lease, "_EXPIRES_S", 0.3)
    return RunDir(f"file://{tmp_path}/runs/digits-20261122-134501-3fa9")


def leave_lease(run_dir: RunDir, **values: Any) -> None:
    owner = {"pid": 1, "host": "elsewhere", "token": "theirs", "renewed": time.time()}
    run_dir.write(rundir.LOCK, json.dumps(owner | values).encode())


def test_a_run_is_held_as_long_as_somebody_trains_it(run_dir: RunDir) -> None:
    assert not lock.is_held(run_dir)
    with lock.held(run_dir):
        assert lock.is_held(run_dir)
    assert not lock.is_held(run_dir)
    assert run_dir.names("") == []


def test_a_second_launcher_is_refused(run_dir: RunDir) -> None:
    with (
        lock.held(run_dir),
        pytest.raises(PreflightError, match="is being trained by process"),
        lock.held(run_dir),
    ):
        pass


def test_a_lease_that_nobody_renews_is_taken_over(run_dir: RunDir) -> None:
    leave_lease(run_dir)
    with lock.held(run_dir) as hold:
        assert lock.is_held(run_dir)
        assert lock.is_ours(run_dir, hold.token)


def test_that_of_a_dead_process_of_this_host_is_taken_at_once(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_EXPIRES_S", 1e6)
    leave_lease(run_dir, where=lease._where(), pid=2**22 + 1)
    with lock.held(run_dir):
        assert lock.is_held(run_dir)


def test_a_launcher_learns_that_another_has_taken_its_run(run_dir: RunDir) -> None:
    with lock.held(run_dir) as hold:
        leave_lease(run_dir)
        assert not lock.is_ours(run_dir, hold.token)
    assert (run_dir.read_json(rundir.LOCK) or {})["token"] == "theirs"


@pytest.mark.parametrize("content", [b'{"pid": 3, "host": "elsewhere"}', b"", b"[]"])
def test_a_file_of_that_name_that_is_no_lease_keeps_nobody_out(
    run_dir: RunDir, content: bytes
) -> None:
    run_dir.write(rundir.LOCK, content)
    assert not lock.is_held(run_dir)
    with lock.held(run_dir) as hold:
        assert lock.is_ours(run_dir, hold.token)


def test_a_process_that_cannot_be_seen_from_here_is_not_taken_for_dead(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_EXPIRES_S", 1e6)
    leave_lease(run_dir, where="another boot/4026531836", pid=2**22 + 1)
    renewed = threading.Timer(0.1, leave_lease, [run_dir], {"token": "renewed"})
    renewed.start()
    with pytest.raises(PreflightError), lock.held(run_dir):
        pass
    renewed.join()
