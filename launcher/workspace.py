"""The folders of this host in which runs are worked on whose storage is a URL.

What is new in them is brought to the URL by `mirror`.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher import checkpoint, rundir, storage
from launcher.errors import PreflightError
from launcher.plan import RunPlan
from launcher.rundir import RunDir

_OF_THE_MOMENT = (rundir.LOCK, rundir.STOP, rundir.PROBE)


@contextlib.contextmanager
def opened(run_dir: RunDir, *, wanted: Callable[[str], bool]) -> Iterator[RunDir]:
    """The run with a folder to work in, and in it the files that are wanted.

    A run in a folder is worked on where it is. Another folder is removed at the end, unless the
    run's `KEPT` says that something in it is nowhere else.
    """
    if run_dir.is_local:
        yield run_dir
        return
    _bring_left_over(run_dir)
    with _new_folder(run_dir.run_id) as folder:
        here = RunDir(run_dir.url, str(folder))
        fetch(here, wanted=wanted)
        yield here


def fetch(here: RunDir, *, wanted: Callable[[str], bool]) -> None:
    """Copies the files that are wanted from the run's URL into its folder."""
    names = [name for name in storage.files_below(here.url) if wanted(name)]
    storage.get(here.url, here.local(), names)


def with_code_here(plan: RunPlan, here: RunDir) -> RunPlan:
    """The plan for ranks of this host, where the run's code is at its URL."""
    if not storage.is_url(plan.code_dir):
        return plan
    return plan.model_copy(update={"code_dir": str(here.local(rundir.CODE))})


def of_driver(name: str) -> bool:
    """Whether a file of the run is the launcher's, and no rank's."""
    return of_driver_and_ranks(name) and not (name == rundir.METRICS or of_ranks(name))


def of_ranks(name: str) -> bool:
    """Whether it is the output of a rank."""
    return name.startswith(f"{rundir.LOGS}/attempt-")


def of_driver_and_ranks(name: str) -> bool:
    """Whether it belongs to the run; checkpoints, for which there are other rules, do not count."""
    return not name.startswith(f"{rundir.CHECKPOINTS}/") and name not in _OF_THE_MOMENT


def to_go_on(name: str) -> bool:
    """Whether the launcher that goes on with a run needs it."""
    return of_driver_and_ranks(name) and not of_ranks(name)


@contextlib.contextmanager
def _new_folder(run_id: str) -> Iterator[Path]:
    above = _above()
    with storage.storage_errors(str(above)):
        folder = Path(tempfile.mkdtemp(prefix=f"{run_id}-", dir=above))
        mine = (folder / rundir.LOCK).open("wb")
    with mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            if not (folder / rundir.KEPT).exists():
                shutil.rmtree(folder, ignore_errors=True)


def _above() -> Path:
    """Where the folders of all runs are; PreflightError where others could write there, too."""
    above = Path(tempfile.gettempdir(), f"launcher-{os.getuid()}")
    with storage.storage_errors(str(above)):
        if not above.is_dir():
            above.mkdir(mode=0o700, exist_ok=True)
        status = above.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PreflightError(
            f"{above} is no folder that only you can use, and runs are worked on there; remove it, "
            "or set TMPDIR to another place"
        )
    return above


def _bring_left_over(run_dir: RunDir) -> None:
    """Brings to the run's URL what killed launchers have left of it here, and removes that.

    What they left under another plan, or behind what is there, is of no use. What was left of other
    runs is theirs to go on with, if it is nowhere else.
    """
    for folder in _above().iterdir():
        with contextlib.suppress(OSError), (folder / rundir.LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left = RunDir(run_dir.url, str(folder))
            is_kept = left.exists(rundir.KEPT)
            is_mine = is_kept and left.read(rundir.KEPT).decode() == run_dir.url
            if is_mine and _is_of_this_plan(left):
                _bring(left)
            if is_mine or not is_kept:
                shutil.rmtree(folder, ignore_errors=True)


def _is_of_this_plan(left: RunDir) -> bool:
    plan = left.read_json(rundir.PLAN)
    return plan is not None and plan == left.stored.read_json(rundir.PLAN)


def _bring(left: RunDir) -> None:
    """Brings files that are what is there and more, and the newest checkpoint, if it is newer."""
    for path in sorted(path for path in left.local().rglob("*") if path.is_file()):
        name = str(path.relative_to(left.local()))
        if of_driver_and_ranks(name) and not path.name.startswith("."):
            there = left.stored.read(name) if left.stored.exists(name) else b""
            if path.stat().st_size > len(there) and path.read_bytes().startswith(there):
                left.bring(name)
    newest = checkpoint.newest_valid(left).name
    is_newer = rundir.checkpoint_step(newest) > max(
        checkpoint.committed_steps(left.stored), default=0
    )
    if is_newer and _has_rows_of(left):
        with checkpoint.linked(left, newest) as files:
            checkpoint.publish(left, newest, files)


def _has_rows_of(left: RunDir) -> bool:
    """Whether the rows that led to what is left are those that are at the URL."""
    rows = left.read(rundir.METRICS) if left.exists(rundir.METRICS) else b""
    whole = rows[: rows.rfind(b"\n") + 1]
    return left.stored.exists(rundir.METRICS) and left.stored.read(rundir.METRICS).startswith(whole)
