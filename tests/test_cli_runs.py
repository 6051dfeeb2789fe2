"""The commands that read runs say what the run directories hold, and exit as they should."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from launcher import lock, rundir
from launcher.cli import launcher
from launcher.errors import SpecError
from launcher.rundir import RunDir
from tests.plans import make_plan

RUN_ID = "digits-20261122-134501-3fa9"


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run that was cut off at step 2, in the `runs` of the current folder."""
    monkeypatch.chdir(tmp_path)
    run_dir = rundir.create(str(tmp_path / "runs"), RUN_ID)
    run_dir.write(rundir.SPEC, b"name: digits\n")
    run_dir.write_json(rundir.PLAN, make_plan().model_dump(mode="json"))
    for step in (1, 2):
        run_dir.append(rundir.METRICS, {"step": step, "epoch": 1, "time": 0.0, "loss": 0.5})
    print_log(run_dir, attempt=1, text="hello\nno end")
    return run_dir


def print_log(run_dir: RunDir, *, attempt: int, text: str) -> None:
    log = run_dir.local(rundir.rank_log(attempt, 0))
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(launcher, arguments, catch_exceptions=False)


@pytest.mark.parametrize("reference", [RUN_ID, "digits-2026", "@last", f"runs/{RUN_ID}"])
def test_a_run_is_found_by_id_prefix_path_and_as_the_last(run_dir: RunDir, reference: str) -> None:
    document = json.loads(call("show", reference, "-o", "json").stdout)
    assert document["outcome"]["run_dir"] == run_dir.path()
    assert (document["outcome"]["status"], document["outcome"]["step"]) == ("lost", 2)


def test_a_run_is_found_from_inside_its_folder(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_dir.local())
    assert call("show", ".").stdout.startswith(f"{RUN_ID} lost at step 2")


def test_logs_are_printed_to_their_last_byte(run_dir: RunDir) -> None:
    assert call("logs", run_dir.run_id).stdout == "hello\nno end\n"


def test_followed_logs_go_on_with_the_next_attempt(run_dir: RunDir) -> None:
    shown: list[str] = []
    with lock.held(run_dir):
        follower = threading.Thread(
            target=lambda: shown.append(call("logs", "@last", "--follow").stdout)
        )
        follower.start()
        print_log(run_dir, attempt=2, text="again\n")
    follower.join(30.0)
    assert shown[0].endswith("again\n")


def test_followed_logs_have_an_attempt_that_began_and_ended_between_two_looks(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_meanwhile(_: RunDir) -> bool:
        print_log(run_dir, attempt=2, text="again\n")
        return False

    monkeypatch.setattr(lock, "is_held", end_meanwhile)
    assert call("logs", "@last", "--follow").stdout == "hello\nno end\nagain\n"


def test_followed_logs_have_the_news_of_the_run_beside_them(run_dir: RunDir) -> None:
    def end() -> None:
        event = {"event": "failure", "restart": True, "message": "rank 1 died", "reason": "again"}
        run_dir.append(rundir.EVENTS, event)
        run_dir.append(rundir.METRICS, {"step": 3, "epoch": 1, "time": 0.0, "eval_loss": 0.25})

    with lock.held(run_dir):
        ending = threading.Timer(0.5, end)
        ending.start()
        followed = threading.Thread(target=lambda: said.append(call("logs", RUN_ID, "-f")))
        said: list[Result] = []
        followed.start()
        ending.join()
    followed.join()
    assert said[0].stdout == "hello\nno end\n"
    assert said[0].stderr.splitlines() == [
        "failed: rank 1 died (again)",
        "step 3/0 epoch=1 eval_loss=0.25",
    ]


def test_a_rank_that_printed_nothing_is_said_to_have(run_dir: RunDir) -> None:
    print_log(run_dir, attempt=1, text="")
    done = call("logs", RUN_ID)
    assert done.stdout == ""
    assert done.stderr == f"rank 0 has printed nothing; `launcher show {RUN_ID}` has the rest\n"


def test_a_url_with_one_slash_is_no_folder(run_dir: RunDir) -> None:  # noqa: ARG001  # where it is
    with pytest.raises(SpecError, match="a URL has two slashes, as in s3://BUCKET/runs"):
        call("ls", "--storage", "S3:/bucket/runs")


def test_stop_of_a_run_that_is_not_training_says_how_it_stands(run_dir: RunDir) -> None:
    stopped = call("stop", run_dir.run_id, "-o", "json")
    assert stopped.exit_code == 0
    assert json.loads(stopped.stdout)["status"] == "lost"


def test_a_wait_that_times_out_exits_with_21(run_dir: RunDir) -> None:
    with lock.held(run_dir):
        waited = CliRunner().invoke(launcher, ["wait", "@last", "--timeout", "0", "-o", "json"])
    assert waited.exit_code == 21
    assert json.loads(waited.stdout)["status"] == "running"


def test_nobody_listening_does_not_turn_a_failure_into_a_success(run_dir: RunDir) -> None:
    command = [sys.executable, "-m", "launcher", "wait", run_dir.run_id, "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()
        assert process.wait(30.0) == 13


def test_a_refused_command_is_a_document_too(run_dir: RunDir) -> None:
    for arguments, exit_code in ((["show", "nobody"], 22), (["wait"], 2)):
        command = [sys.executable, "-m", "launcher", *arguments, "-o", "json"]
        done = subprocess.run(command, capture_output=True, check=False)
        document = json.loads(done.stdout)
        assert (done.returncode, document["exit_code"]) == (exit_code, exit_code)
        assert document["error"]["message"]
    assert run_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "local", "--cluster", "lab"), r"^--engine local starts ranks on this mach"),
        (("--wait-timeout", "3"), r"^--wait-timeout is for room on a cluster; add --cluster"),
    ],
)
def test_options_of_resume_that_would_have_no_effect_are_refused(
    run_dir: RunDir, arguments: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        call("resume", run_dir.run_id, *arguments)
