"""What goes wrong is said once, with its exit code; nothing saved is lost, no process is left."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher import rundir
from launcher.data.order import epoch_order
from tests.job import LAST_STEP, SAMPLES, SEED, Ended, Launcher, weights, write_job
from tests.killing import orphans
from tests.trouble import (
    FORWARD_S,
    SAVED_BEFORE,
    assert_nothing_lost,
    flip_bit,
    make_launcher,
    move,
    told,
    trouble,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"train__max_epoch": 3}, "train.max_epoch", "did you mean max_epochs?"),
        ({"train__global_batch_size": "many"}, "train.global_batch_size", "must be an integer"),
        (
            {"train__global_batch_size": 16, "resources__world_size": 7},
            "train.global_batch_size",
            "is 16, not a multiple of 7 ranks; try 14 or 21",
        ),
        ({"model__target": "tiny:Nett"}, "model.target", "has no 'Nett'; did you mean 'Net'?"),
        ({"model__target": "tinny:Net"}, "model.target", "no module named 'tinny'"),
    ],
    ids=["misspelt key", "wrong type", "seven ranks for sixteen", "no such name", "no such module"],
)
def test_a_wrong_spec_is_refused_with_its_place_before_anything_starts(
    changes: dict[str, Any], key: str, words: str, tmp_path: Path
) -> None:
    launcher = make_launcher(tmp_path, **changes)
    ended = launcher.run()
    assert ended.exit_code == 2
    message = told(ended)
    line = int(message.removeprefix(f"{launcher.spec}:").split(":")[0])
    assert f'"{key.rpartition(".")[2]}"' in launcher.spec.read_text().splitlines()[line - 1]
    assert f" {key}: " in message
    assert words in message
    assert not launcher.run_dirs


def test_an_argument_that_the_target_does_not_take_is_the_specs_mistake(tmp_path: Path) -> None:
    with make_launcher(tmp_path, model__args={"forwrd_s": 1}) as launcher:
        ended = launcher.run()
    assert ended.exit_code == 2
    expected = "tiny:Net has no argument 'forwrd_s'; did you mean 'forward_s'?"
    assert ended.error["message"] == expected
    assert "Traceback" not in ended.stderr


def test_a_run_that_does_not_exist_is_said_to(unbroken_run: Launcher) -> None:
    ended = unbroken_run.start("resume", "no-such-run").wait()
    assert ended.exit_code == 22
    assert told(ended) == (
        f"no run no-such-run in {unbroken_run.storage}; `launcher ls` lists them, "
        "--storage looks elsewhere"
    )


def test_a_dataset_that_raises_in_a_loader_worker_is_told_in_its_own_words(tmp_path: Path) -> None:
    last_of_epoch = int(epoch_order(samples=SAMPLES, seed=SEED, epoch=1)[-1])  # in step 10
    with make_launcher(
        tmp_path,
        data__train__args={"bad_index": last_of_epoch},
        data__loader={"num_workers": 2},
    ) as launcher:
        ended = launcher.run()
        assert ended.exit_code == 10
        assert ended.error["kind"] == "user_code"
        assert ended.error["rank"] == 1
        assert ended.error["message"].startswith(
            f"ValueError: sample {last_of_epoch} is unreadable (in "
        )
        assert "tiny.py" in ended.error["traceback"]
        assert_nothing_lost(launcher)


def test_a_loss_that_becomes_nan_ends_the_run_before_it_is_saved(tmp_path: Path) -> None:
    with make_launcher(tmp_path, model__args=trouble("nan")) as launcher:
        ended = launcher.run()
        assert ended.exit_code == 14
        assert ended.error["message"] == "the loss of step 11 is nan"
        assert ended.outcome["step"] == 10
        assert "Traceback" not in ended.stderr
        assert_nothing_lost(launcher)
        newest = launcher.run_dir.local(rundir.checkpoint_name(SAVED_BEFORE))
        model = load_file(newest / rundir.tensor_file("model"))
        assert all(bool(torch.isfinite(tensor).all()) for tensor in model.values())


def test_an_exception_in_one_rank_is_shown_once_with_its_traceback(tmp_path: Path) -> None:
    with make_launcher(tmp_path, model__args=trouble("raise")) as launcher:
        ended = launcher.start("run", str(launcher.spec)).wait()
        assert ended.exit_code == 10
        assert told(ended) == "RuntimeError: the weather is bad"
        assert ended.stderr.count("in _raise") == 1
        assert "Connection closed" not in ended.stderr
        outcome = launcher.run_dir.read_json(rundir.OUTCOME)
        assert outcome
        assert outcome["error"]["rank"] == 1
        assert_nothing_lost(launcher)


@pytest.mark.parametrize(
    ("what", "message"),
    [("exit", "SystemExit: 3"), ("os_exit", "rank 1: exited with code 0 in the middle")],
)
def test_a_rank_that_leaves_in_the_middle_is_the_users_code(
    what: str, message: str, tmp_path: Path
) -> None:
    with make_launcher(tmp_path, model__args=trouble(what)) as launcher:
        ended = launcher.run()
        assert ended.exit_code == 10
        assert ended.error["message"] == message
        assert ended.error["rank"] == 1
        assert_nothing_lost(launcher)


@pytest.mark.parametrize("step", [1, 11])
def test_a_hang_is_ended_with_the_stack_of_every_rank_in_its_log(step: int, tmp_path: Path) -> None:
    changes = {"model__args": trouble("hang", step=step), "retries__hang_timeout_s": 2}
    with make_launcher(tmp_path, **changes) as launcher:
        ended = launcher.run()
        assert ended.exit_code == 12
        assert ended.error["message"] == "rank 1: no rank made progress for 2 s; rank 1 is behind"
        for rank, frame in enumerate(["_engine_run_backward", "in _hang"]):
            assert frame in launcher.run_dir.local(rundir.rank_log(1, rank)).read_text()
        assert launcher.steps() == ([4, SAVED_BEFORE] if step == 11 else [])
        assert orphans(launcher) == []


def test_a_corrupted_newest_checkpoint_is_passed_over_aloud(
    stopped_run: tuple[Launcher, Ended], unbroken_run: Launcher, tmp_path: Path
) -> None:
    with move(stopped_run[0], tmp_path) as launcher:
        *_, older, newest = map(rundir.checkpoint_name, launcher.steps())
        flip_bit(launcher.run_dir.local(f"{newest}/model.safetensors"))
        ended = launcher.resume()
        assert ended.exit_code == 0
        reason = f"{newest} is damaged (model.safetensors does not match its hash)"
        assert ended.stderr.count(f"passed over: {reason}") == 1
        assert [event["reason"] for event in launcher.events("passed_over")] == [reason]
        assert launcher.events("attempt")[-1]["checkpoint"] == older
        assert weights(launcher.run_dir) == weights(unbroken_run.run_dir)


def test_without_a_checkpoint_to_trust_nothing_starts_and_nothing_is_deleted(
    stopped_run: tuple[Launcher, Ended], tmp_path: Path
) -> None:
    with move(stopped_run[0], tmp_path) as launcher:
        steps = launcher.steps()
        for step in steps:
            flip_bit(launcher.run_dir.local(f"{rundir.checkpoint_name(step)}/state.json"))
        ended = launcher.resume()
        assert ended.exit_code == 3
        assert told(ended).startswith("no checkpoint of this run can be trusted: ")
        assert launcher.steps() == steps


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of five megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=5m", "tmpfs", str(place))
    if not mounted:
        pytest.skip("a tmpfs cannot be mounted here: that needs root and CAP_SYS_ADMIN")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def mount(*arguments: str) -> bool:
    return not subprocess.run(["mount", *arguments], capture_output=True).returncode


def test_a_full_or_read_only_disk_loses_nothing_and_a_resume_goes_on_when_there_is_room(
    small_disk: Path, unbroken_run: Launcher, tmp_path: Path
) -> None:
    spec = write_job(
        tmp_path,
        model__args={"forward_s": FORWARD_S, "ballast_mb": 2},
        checkpoint={"every_steps": 4, "keep_last": 9},
    )
    with Launcher(spec, storage=small_disk / "runs") as launcher:
        full = launcher.run()
        assert full.exit_code == 3
        assert full.error["kind"] == "storage"
        assert_says_what_to_do(full.error["message"])
        assert "Traceback" not in full.stderr
        assert_nothing_lost(launcher)

        assert mount("-o", "remount,ro", str(small_disk))
        for refused in (launcher.resume(), launcher.run()):
            assert refused.exit_code == 3
            assert_says_what_to_do(told(refused))
            assert "Read-only file system" in told(refused)
        assert_nothing_lost(launcher)

        assert mount("-o", "remount,rw,size=64m", str(small_disk))
        assert launcher.resume().exit_code == 0
        assert [row["step"] for row in launcher.rows()] == list(range(1, LAST_STEP + 1))
        assert launcher.events("attempt")[-1]["checkpoint"].endswith(f"{SAVED_BEFORE:08d}")
        assert last_loss(launcher) == last_loss(unbroken_run)


def assert_says_what_to_do(message: str) -> None:
    assert "\n" not in message
    assert message.startswith("cannot write ")
    assert "nothing that was saved before is lost" in message
    assert "`launcher resume`" in message


def last_loss(launcher: Launcher) -> float:
    loss: float = launcher.rows()[-1]["loss"]
    return loss
