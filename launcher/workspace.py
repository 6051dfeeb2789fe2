"""The folders of this host in which runs are worked on whose storage is a URL.

What is new in them is brought to the URL by `mirror`.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher import checkpoint, rundir, storage
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
    for name in storage.files_below(here.url):
        if wanted(name):
            storage.get(here.path(name), here.local(name))


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
    folder = Path(tempfile.mkdtemp(prefix=f"{run_id}-", dir=_above()))
    with (folder / rundir.LOCK).open("wb") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _remove(folder)


def _above() -> Path:
    above = Path(tempfile.gettempdir(), f"launcher-{os.getuid()}")
    above.mkdir(mode=0o700, exist_ok=True)
    return above


def _bring_left_over(run_dir: RunDir) -> None:
    """Removes what killed launchers have left here, after bringing what is this run's to its URL.

    What was left of a run under another plan, or is behind what is there, is of no use.
    """
    for folder in _above().iterdir():
        with contextlib.suppress(OSError), (folder / rundir.LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left = RunDir(run_dir.url, str(folder))
            if folder.name.startswith(f"{run_dir.run_id}-") and _is_of_this_plan(left):
                _bring(left)
                left.remove(rundir.KEPT)
            _remove(folder)


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
                left.stored.put(name, path)
    newest = checkpoint.newest_valid(left).name
    if rundir.checkpoint_step(newest) > max(checkpoint.committed_steps(left.stored), default=0):
        checkpoint.publish(left, newest)


def _remove(folder: Path) -> None:
    if not (folder / rundir.KEPT).exists():
        shutil.rmtree(folder, ignore_errors=True)
