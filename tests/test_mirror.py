"""What a run's folder has comes to its URL: a checkpoint whole or not at all."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launcher import checkpoint, lock, mirror, rundir, storage, workspace
from launcher.errors import PreflightError, StorageError
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
    token: str = "",
) -> Mirror:
    return Mirror(run_dir, own=own, keep_last=2, token=token, patience_s=0.0, give_up=lambda: None)


def test_files_that_are_new_or_changed_are_so_at_the_url_and_none_is_removed_there(
    run_dir: RunDir,
) -> None:
    mirror = make_mirror(run_dir)
    run_dir.write("logs/attempt-0001/rank-00000.log", b"one\n")
    run_dir.write("spec.yaml", b"{}")
    mirror.settle()
    assert run_dir.stored.read("logs/attempt-0001/rank-00000.log") == b"one\n"
    run_dir.append("logs/attempt-0001/rank-00000.log", {"two": 2})
    run_dir.remove("spec.yaml")  # as whoever tidies up /tmp does
    mirror.settle()
    assert run_dir.stored.read("logs/attempt-0001/rank-00000.log") == b'one\n{"two": 2}\n'
    assert run_dir.stored.exists("spec.yaml")


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

    def put_or_break(folder: Path, place: str, names: Sequence[str]) -> None:
        put(folder, place, [name for name in names if name != rundir.STATE])
        if rundir.STATE in names:
            raise StorageError("the network is gone")

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
    with lock.held(run_dir) as hold:
        mirror = make_mirror(run_dir, token=hold.token)
        write(run_dir, 1)
        run_dir.append(rundir.METRICS, {"step": 1})
        run_dir.stored.write(rundir.LOCK, b'{"token": "theirs", "renewed": 0}')
        with pytest.raises(StorageError, match="another launcher has taken"):
            mirror.settle()
    assert run_dir.stored.names("") == [rundir.LOCK]


def test_a_checkpoint_never_goes_without_the_rows_that_led_to_it(run_dir: RunDir) -> None:
    mirror = make_mirror(run_dir)
    run_dir.append(rundir.METRICS, {"step": 1})
    mirror._due[rundir.METRICS] = float("inf")  # as after a row file that took long
    write(run_dir, 1)
    mirror._bring()
    assert [row["step"] for row in run_dir.stored.read_lines(rundir.METRICS)] == [1]
    assert checkpoint.committed_steps(run_dir.stored) == [1]


def test_an_attempt_that_goes_on_from_an_older_checkpoint_brings_its_own(run_dir: RunDir) -> None:
    mirror = make_mirror(run_dir)
    for step in (1, 2):
        write(run_dir, step)
        mirror.settle()
    flip_bit(
        Path(run_dir.path(rundir.checkpoint_name(2)).removeprefix("file://"), "state.json"), byte=3
    )
    mirror.begin_after(1)
    mirror.settle()
    assert checkpoint.newest_valid(run_dir.stored).name == rundir.checkpoint_name(1)
    write(run_dir, 2)
    mirror.settle()
    assert checkpoint.newest_valid(run_dir.stored).name == rundir.checkpoint_name(2)


def test_a_wish_to_stop_at_the_url_comes_to_the_folder(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PERIOD_S", 0.01)
    with mirrored(run_dir, token="", own=of_driver_and_ranks, keep_last=2, give_up=lambda: None):
        run_dir.stored.write(rundir.STOP, b"")
        eventually(lambda: run_dir.exists(rundir.STOP))


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
            token="",
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


@pytest.mark.parametrize(
    ("plan", "rows"),
    [(b'{"seed": 2}', b'{"step": 1}\n'), (b'{"seed": 1}', b'{"step": 1, "again": true}\n')],
    ids=["another plan", "other rows"],
)
def test_what_was_left_and_does_not_fit_what_is_there_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: bytes, rows: bytes
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_dir = RunDir(f"file://{tmp_path}/bucket/{RUN_ID}")
    run_dir.write(rundir.PLAN, b'{"seed": 1}')
    with workspace.opened(run_dir, wanted=workspace.to_go_on) as here:
        here.write(rundir.KEPT, run_dir.url.encode())
        here.append(rundir.METRICS, {"step": 1})
        write(here, 1)
    run_dir.write(rundir.PLAN, plan)
    run_dir.write(rundir.METRICS, rows)
    with workspace.opened(run_dir, wanted=workspace.to_go_on):
        assert run_dir.read(rundir.METRICS) == rows
        assert checkpoint.committed_steps(run_dir) == []
        (above,) = tmp_path.glob("launcher-*")
        assert len(list(above.iterdir())) == 1


def test_a_folder_that_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    above = tmp_path / f"launcher-{os.getuid()}"
    above.mkdir()
    above.chmod(0o777)
    with (
        pytest.raises(PreflightError, match="no folder that only you can use"),
        workspace.opened(RunDir(f"file://{tmp_path}/bucket/{RUN_ID}"), wanted=str.isupper),
    ):
        pass
