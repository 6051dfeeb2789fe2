"""Runs whose storage is a bucket, behind a server that speaks S3: kept, killed, looked at."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import rundir
from tests import s3
from tests.job import LAST_STEP, Command, Launcher, eventually, reproducible, weights, write_job
from tests.s3 import Server

pytestmark = pytest.mark.integration

SLOW = {"forward_s": 0.15}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("s3")
    with s3.server(folder / "server.log") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        scratch = folder / "scratch"
        scratch.mkdir()
        patch.setenv("TMPDIR", str(scratch))
        yield server
        assert [path.name for path in scratch.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """The same job, in a folder of this machine."""
    with Launcher(write_job(tmp_path_factory.mktemp("local"))) as launcher:
        assert launcher.run().exit_code == 0
        yield launcher


def launcher_at(bucket: Server, folder: Path, name: str, **model: Any) -> Launcher:
    spec = write_job(folder / name, model__args=model)
    return Launcher(spec, storage=f"{bucket.storage}/{name}")


def start_and_train(launcher: Launcher) -> Command:
    """A run that goes on; the bucket has rows of it."""
    command = launcher.start_run()
    eventually(lambda: launcher.run_dirs and launcher.rows(), what="rows there")
    return command


def start_and_save(launcher: Launcher) -> Command:
    """A run that goes on; the bucket has a checkpoint of it."""
    command = start_and_train(launcher)
    eventually(launcher.steps, what="a checkpoint there")
    return command


def assert_as_unbroken(launcher: Launcher, unbroken: Launcher) -> None:
    assert weights(launcher.run_dir) == weights(unbroken.run_dir)
    assert reproducible(launcher.rows()) == reproducible(unbroken.rows())


def test_a_run_in_a_bucket_has_all_that_one_in_a_folder_has(
    bucket: Server, unbroken: Launcher, tmp_path: Path
) -> None:
    with launcher_at(bucket, tmp_path, "kept") as launcher:
        ended = launcher.run()
        assert ended.exit_code == 0, ended.stderr
        assert_as_unbroken(launcher, unbroken)
        run_dir = launcher.run_dir
        assert ended.outcome == run_dir.read_json(rundir.OUTCOME)
        assert ended.outcome["checkpoint"] == run_dir.path(rundir.checkpoint_name(LAST_STEP))
        assert set(run_dir.names("")) >= {"spec.yaml", "plan.json", "record.json", "events.jsonl"}
        assert run_dir.names("logs/attempt-0001") == ["rank-00000.log", "rank-00001.log"]
        assert not run_dir.exists(rundir.LOCK)


def test_a_launcher_that_is_killed_leaves_a_run_that_goes_on_from_the_bucket(
    bucket: Server, unbroken: Launcher, tmp_path: Path
) -> None:
    with launcher_at(bucket, tmp_path, "killed", **SLOW) as launcher:
        command = start_and_save(launcher)
        command.process.kill()
        command.process.wait()
        ended = launcher.resume()
        assert ended.exit_code == 0, ended.stderr
        assert_as_unbroken(launcher, unbroken)
        assert len(launcher.steps()) == 3


def test_a_rank_that_is_killed_costs_the_steps_since_the_last_checkpoint(
    bucket: Server, unbroken: Launcher, tmp_path: Path
) -> None:
    with launcher_at(bucket, tmp_path, "rank", **SLOW) as launcher:
        command = start_and_save(launcher)
        launcher.ranks()[1].kill()
        ended = command.wait()
        assert ended.exit_code == 0, ended.stderr
        assert ended.outcome["attempts"] == 2
        assert_as_unbroken(launcher, unbroken)


def test_a_run_in_a_bucket_is_looked_at_and_stopped_from_anywhere(
    bucket: Server, tmp_path: Path
) -> None:
    with launcher_at(bucket, tmp_path, "watched", forward_s=0.6) as launcher:
        command = start_and_train(launcher)
        (listed,) = launcher.start("ls", "-o", "json").wait().outcome["runs"]
        assert listed["status"] == "running"
        second = launcher.resume()
        assert (second.exit_code, second.error["kind"]) == (3, "preflight")
        stopped = launcher.start("stop", "@last", "-o", "json").wait()
        assert (stopped.exit_code, stopped.outcome["status"]) == (0, "stopped")
        assert command.wait().exit_code == 20
        assert stopped.outcome["checkpoint"].startswith(launcher.run_dir.url)
        shown = launcher.start("show", "@last", "-o", "json").wait().outcome
        assert shown["outcome"] == stopped.outcome
        logs = launcher.start("logs", "@last", "--rank", "1")
        assert logs.process.wait() == 0


def test_a_bucket_that_is_away_for_a_while_is_waited_for(
    bucket: Server, unbroken: Launcher, tmp_path: Path
) -> None:
    with launcher_at(bucket, tmp_path, "away", **SLOW) as launcher:
        command = start_and_train(launcher)
        bucket.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: not launcher.ranks(), what="the end of training")
        finally:
            bucket.process.send_signal(signal.SIGCONT)
        ended = command.wait()
        assert ended.exit_code == 0, ended.stderr
        assert_as_unbroken(launcher, unbroken)


@pytest.mark.parametrize(
    ("storage", "exit_code", "said"),
    [
        ("s3://no-such-bucket/runs", 3, "no-such-bucket"),
        ("sftp://here/runs", 2, "sftp:// is no kind of storage that runs can be kept in"),
        ("s3://me:hunter2@bucket/runs", 2, "has a user or a password in its URL"),
    ],
)
def test_storage_that_is_not_there_is_refused_before_anything_starts(
    bucket: Server,  # noqa: ARG001  # the server that has no such bucket
    tmp_path: Path,
    storage: str,
    exit_code: int,
    said: str,
) -> None:
    with Launcher(write_job(tmp_path), storage=storage) as launcher:
        ended = launcher.run()
        assert ended.exit_code == exit_code
        assert said in ended.error["message"]
        assert "hunter2" not in ended.stderr
