"""`metrics.jsonl` has each step once, in order, whatever was killed; so has who follows it."""

import contextlib
import json
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from launcher import rundir
from launcher.errors import StorageError
from launcher.growing import LocalLines
from launcher.metrics import Follower, JsonlSink, rewind
from launcher.rundir import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return rundir.create(str(tmp_path), "digits-20261122-134501-3fa9")


def path_of(run_dir: RunDir) -> Path:
    return run_dir.local(rundir.METRICS)


def write_steps(run_dir: RunDir, steps: Iterable[int]) -> None:
    sink = JsonlSink(run_dir)
    for step in steps:
        sink.log({"step": step, "epoch": 1, "time": 1.7e9, "loss": 0.5})
    sink.close()


def steps_in(run_dir: RunDir) -> list[int]:
    return [row["step"] for row in run_dir.read_lines(rundir.METRICS)]


def new_steps(follower: Follower) -> list[int]:
    return [row["step"] for row in follower.new_rows()]


@contextlib.contextmanager
def room_for(path: Path, *, more_bytes: int) -> Iterator[None]:
    """Lets this process write files no longer than this one plus so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_restart_cuts_off_the_steps_that_it_repeats(run_dir: RunDir) -> None:
    write_steps(run_dir, range(1, 8))
    rewind(run_dir, step=4)
    write_steps(run_dir, range(5, 7))
    assert steps_in(run_dir) == [1, 2, 3, 4, 5, 6]


def test_a_line_that_a_crash_cut_short_is_cut_off(run_dir: RunDir) -> None:
    write_steps(run_dir, range(1, 4))
    with path_of(run_dir).open("ab") as file:
        file.write(b'{"step": 4, "ep')
    rewind(run_dir, step=9)
    assert steps_in(run_dir) == [1, 2, 3]
    assert path_of(run_dir).read_bytes().endswith(b"\n")


def test_a_file_with_nothing_to_cut_off_stays_the_same_file(run_dir: RunDir) -> None:
    write_steps(run_dir, range(1, 4))
    before = path_of(run_dir).stat().st_ino
    rewind(run_dir, step=3)
    assert path_of(run_dir).stat().st_ino == before


def test_a_run_without_metrics_has_nothing_to_cut_off(run_dir: RunDir) -> None:
    rewind(run_dir, step=0)
    assert not path_of(run_dir).exists()


def test_a_disk_that_is_full_in_the_middle_of_a_row_takes_nothing_of_it(run_dir: RunDir) -> None:
    write_steps(run_dir, [1, 2])
    sink = JsonlSink(run_dir)
    with room_for(path_of(run_dir), more_bytes=20), pytest.raises(StorageError, match="No space"):
        sink.log({"step": 3, "epoch": 1, "time": 1.7e9, "loss": 0.5})
    sink.log({"step": 4, "epoch": 1, "time": 1.7e9, "loss": 0.5})
    sink.close()
    assert steps_in(run_dir) == [1, 2, 4]


def test_lines_come_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = LocalLines(path)
    assert list(lines.new()) == []
    path.write_bytes(b"one\ntw")
    assert list(lines.new()) == [b"one"]
    assert list(lines.new()) == []
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert list(lines.new()) == [b"two", b"three"]
    lines.close()


def test_lines_from_the_end_leave_out_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    lines = LocalLines(path, from_end=True)
    with path.open("ab") as file:
        file.write(b"new\n")
    assert list(lines.new()) == [b"new"]
    lines.close()


def test_a_file_put_in_the_place_of_another_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\nhalf of tw")
    lines = LocalLines(path)
    assert list(lines.new()) == [b"one"]
    other = tmp_path / "other"
    other.write_bytes(b"1\n2\n")
    other.replace(path)
    assert list(lines.new()) == [b"1", b"2"]
    lines.close()


def test_a_follower_hands_over_each_step_once_also_when_steps_are_done_again(
    run_dir: RunDir,
) -> None:
    follower = Follower(run_dir)
    write_steps(run_dir, range(1, 6))
    assert new_steps(follower) == [1, 2, 3, 4, 5]
    rewind(run_dir, step=2)
    write_steps(run_dir, [3, 4])
    assert new_steps(follower) == []
    write_steps(run_dir, [5, 6, 7])
    assert new_steps(follower) == [6, 7]
    follower.close()


def test_a_follower_goes_on_after_the_step_it_is_told(run_dir: RunDir) -> None:
    write_steps(run_dir, range(1, 6))
    follower = Follower(run_dir, after_step=3)
    assert new_steps(follower) == [4, 5]
    follower.close()


def test_rows_are_json(run_dir: RunDir) -> None:
    write_steps(run_dir, [1])
    assert json.loads(path_of(run_dir).read_bytes()) == {
        "step": 1,
        "epoch": 1,
        "time": 1.7e9,
        "loss": 0.5,
    }
