"""What a run's folder has comes to its URL: a checkpoint whole or not at all."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import checkpoint, mirror, rundir, storage, workspace
from launcher.errors import StorageError
from launcher.lock import Hold
from launcher.mirror import Mirror, mirrored
from launcher.rundir import RunDir
from launcher.workspace import of_driver_and_ranks
from tests.job import eventually
from tests.test_checkpoint import flip_bit, write

RUN_ID = "digits-20261122-134501-3fa9"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run at a URL, and a folder for it."""
    folder = tmp_path / "here"
    folder.mkdir()
    return RunDir(f"file://{tmp_path}/bucket/{RUN_ID}", str(folder))


def make_mirror(
    run_dir: RunDir,
    *,
    own: Callable[[str], bool] = of_driver_and_ranks,
    lost: threading.Event | None = None,
) -> Mirror:
    return Mirror(run_dir, own=own, keep_last=2, lost=lost, patience_s=0.0, give_up=lambda: None)


def test_files_that_are_new_changed_or_gone_are_so_at_the_url(run_dir: RunDir) -> None:
    mirror = make_mirror(run_dir)
    run_dir.write("logs/attempt-0001/rank-00000.log", b"one\n")
    run_dir.write("outcome.json", b"{}")
    mirror.settle()
    assert run_dir.stored.read("logs/attempt-0001/rank-00000.log") == b"one\n"
    run_dir.append("logs/attempt-0001/rank-00000.log", {"two": 2})
    run_dir.remove("outcome.json")
    mirror.settle()
    assert run_dir.stored.read("logs/attempt-0001/rank-00000.log") == b'one\n{"two": 2}\n'
    assert not run_dir.stored.exists("outcome.json")


def test_only_the_files_of_this_host_are_brought(run_dir: RunDir) -> None:
    for name in (rundir.LOCK, rundir.METRICS, rundir.EVENTS, ".scratch"):
        run_dir.write(name, b"{}\n")
    make = make_mirror(run_dir, own=workspace.of_driver)
    run_dir.append(rundir.METRICS, {"step": 1})
    run_dir.append(rundir.EVENTS, {"event": "attempt"})
    make.settle()
    assert run_dir.stored.names("") == [rundir.EVENTS]


def test_a_checkpoint_at_the_url_is_whole_and_older_ones_go(run_dir: RunDir) -> None:
    mirror = make_mirror(run_dir)
    for step in (1, 2, 3):
        write(run_dir, step)
        mirror.settle()
    assert checkpoint.committed_steps(run_dir.stored) == [2, 3]
    assert checkpoint.newest_valid(run_dir.stored).name == rundir.checkpoint_name(3)
    assert run_dir.names(rundir.CHECKPOINTS) == [f"step-0000000{step}" for step in (1, 2, 3)]


def test_a_copy_that_breaks_off_is_no_checkpoint(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(run_dir, 1)
    put = storage.put

    def put_or_break(file: Path, place: str) -> None:
        if file.name == rundir.STATE:
            raise StorageError("the network is gone")
        put(file, place)

    monkeypatch.setattr(storage, "put", put_or_break)
    with pytest.raises(StorageError):
        make_mirror(run_dir).settle()
    assert checkpoint.committed_steps(run_dir.stored) == []
    monkeypatch.undo()
    make_mirror(run_dir).settle()
    assert checkpoint.newest_valid(run_dir.stored).name == rundir.checkpoint_name(1)


def test_damage_at_the_url_is_noticed_before_a_checkpoint_is_fetched(run_dir: RunDir) -> None:
    for step in (1, 2):
        write(run_dir, step)
        make_mirror(run_dir).settle()
    newest = rundir.checkpoint_name(2)
    flip_bit(Path(run_dir.path(newest).removeprefix("file://"), "model.safetensors"), byte=3)
    choice = checkpoint.newest_valid(run_dir.stored)
    assert choice.passed_over == (
        f"{newest} is damaged (model.safetensors does not match its hash)",
    )
    other = RunDir(run_dir.url, str(run_dir.local("other")))
    checkpoint.fetch(other, choice.name)
    assert checkpoint.find_damage(other, choice.name) == ""


def test_a_launcher_that_lost_its_run_writes_nothing_more(run_dir: RunDir) -> None:
    lost = threading.Event()
    mirror = make_mirror(run_dir, lost=lost)
    write(run_dir, 1)
    run_dir.append(rundir.METRICS, {"step": 1})
    lost.set()
    with pytest.raises(StorageError, match="another launcher has taken"):
        mirror.settle()
    assert run_dir.stored.names("") == []


def test_a_wish_to_stop_at_the_url_comes_to_the_folder(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PERIOD_S", 0.01)
    made = make_mirror(run_dir).start()
    run_dir.stored.write(rundir.STOP, b"")
    eventually(lambda: run_dir.exists(rundir.STOP))
    made.stop()


def lose_the_network(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row and a checkpoint that could not be brought."""

    def broken(*_: object) -> None:
        raise StorageError("the network is gone")

    with (
        workspace.opened(run_dir, wanted=workspace.to_go_on) as here,
        mirrored(
            here,
            own=of_driver_and_ranks,
            keep_last=2,
            hold=Hold(-1),
            patience_s=0.0,
            give_up=lambda: None,
        ),
    ):
        monkeypatch.setattr(storage, "put", broken)
        here.append(rundir.METRICS, {"step": 2})
        write(here, 2)


def test_what_could_not_be_stored_stays_in_the_folder_and_is_brought_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_dir = RunDir(f"file://{tmp_path}/bucket/{RUN_ID}")
    run_dir.write(rundir.PLAN, b"{}")
    run_dir.write(rundir.METRICS, b'{"step": 1}\n')

    with pytest.raises(StorageError, match=r"What is not there is kept in .*launcher-"):
        lose_the_network(run_dir, monkeypatch)
    assert checkpoint.committed_steps(run_dir) == []
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with workspace.opened(run_dir, wanted=workspace.to_go_on) as here:
        assert [row["step"] for row in here.read_lines(rundir.METRICS)] == [1, 2]
    assert checkpoint.newest_valid(run_dir).name == rundir.checkpoint_name(2)
    (above,) = tmp_path.glob("launcher-*")
    assert list(above.iterdir()) == []


def test_what_was_left_under_another_plan_is_not_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_dir = RunDir(f"file://{tmp_path}/bucket/{RUN_ID}")
    run_dir.write(rundir.PLAN, b'{"seed": 1}')
    with workspace.opened(run_dir, wanted=workspace.to_go_on) as here:
        here.write(rundir.KEPT, b"")
        here.append(rundir.METRICS, {"step": 2})
    run_dir.write(rundir.PLAN, json.dumps({"seed": 2}).encode())
    with workspace.opened(run_dir, wanted=workspace.to_go_on):
        assert not run_dir.exists(rundir.METRICS)
