"""Rows of metrics reach a sink in order and once, and nothing starts where W&B is missing.

The real W&B client is tested in `integration/test_wandb.py`.
"""

import contextlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from launcher import rundir
from launcher.contracts import StopRequest
from launcher.errors import PreflightError
from launcher.metrics import Follower
from launcher.rundir import RunDir
from launcher.tracking import tracked
from launcher.tracking.follow import follow
from launcher.tracking.process import check_installed
from tests.plans import make_plan


class ListSink:
    """Keeps the steps it was given; `ended` is set once it has `enough` of them."""

    def __init__(self, *, enough: int, ended: threading.Event) -> None:
        self.steps: list[float] = []
        self._enough = enough
        self._ended = ended

    def log(self, row: Mapping[str, float]) -> None:
        self.steps.append(row["step"])
        if len(self.steps) == self._enough:
            self._ended.set()

    def close(self) -> None:
        """Nothing was opened."""


def write_steps(run_dir: RunDir, *steps: int) -> None:
    for step in steps:
        run_dir.append(rundir.METRICS, {"step": step, "loss": 1.0})


def follow_into(
    sink: ListSink, run_dir: RunDir, *, ended: threading.Event, after_step: int = 0
) -> None:
    with contextlib.closing(Follower(run_dir, after_step=after_step)) as follower:
        follow(follower, sink, ended=ended)


def test_rows_written_before_the_end_are_all_handed_over(tmp_path: Path) -> None:
    run_dir, ended = RunDir(str(tmp_path)), threading.Event()
    write_steps(run_dir, 1, 2, 3)
    ended.set()
    sink = ListSink(enough=3, ended=ended)
    follow_into(sink, run_dir, ended=ended)
    assert sink.steps == [1, 2, 3]


def test_rows_that_the_sink_had_before_are_not_handed_over_again(tmp_path: Path) -> None:
    run_dir, ended = RunDir(str(tmp_path)), threading.Event()
    write_steps(run_dir, 1, 2, 3)
    ended.set()
    sink = ListSink(enough=1, ended=ended)
    follow_into(sink, run_dir, ended=ended, after_step=2)
    assert sink.steps == [3]


def test_rows_come_while_the_file_grows_and_once_though_a_restart_repeats_them(
    tmp_path: Path,
) -> None:
    run_dir, ended = RunDir(str(tmp_path)), threading.Event()
    sink = ListSink(enough=5, ended=ended)
    thread = threading.Thread(target=follow_into, args=[sink, run_dir], kwargs={"ended": ended})
    write_steps(run_dir, 1, 2, 3)
    thread.start()
    kept = run_dir.read(rundir.METRICS).splitlines(keepends=True)[:2]
    run_dir.write(rundir.METRICS, b"".join(kept))
    write_steps(run_dir, 3, 4, 5)
    thread.join(timeout=10)
    assert sink.steps == [1, 2, 3, 4, 5]


def test_a_missing_wandb_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PreflightError, match=r"pip install 'torch-launcher\[wandb\]'"):
        check_installed()


def test_a_folder_that_wandb_runs_left_behind_is_not_taken_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(PreflightError):
        check_installed()


def test_the_launcher_never_imports_wandb() -> None:
    code = "import sys, launcher.tracking.process; print('wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_plan_without_tracking_starts_nothing(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    with tracked(run_dir, make_plan(tracking=[]), stop=StopRequest()):
        assert run_dir.names("") == []
