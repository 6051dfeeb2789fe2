"""A job in which something goes wrong at step 11, and what must hold afterwards.

What goes wrong is done by the model of `tests.tiny`.
"""

import shutil
from pathlib import Path
from typing import Any

from launcher import checkpoint, rundir
from tests.job import Ended, Launcher, write_job
from tests.killing import orphans

FORWARD_S = 0.02
SAVED_BEFORE = 8
"""The newest checkpoint when something happens in step 11."""


def make_launcher(folder: Path, **changes: Any) -> Launcher:
    changes.setdefault("model__args", {"forward_s": FORWARD_S})
    return Launcher(write_job(folder, **changes))


def trouble(what: str, *, step: int = 11) -> dict[str, Any]:
    """Arguments of a model that gets rank 1 into trouble."""
    return {"forward_s": FORWARD_S, "trouble": {"what": what, "forward": step, "rank": 1}}


def assert_nothing_lost(launcher: Launcher) -> None:
    """What was saved before step 11 is whole, and no process is left."""
    assert launcher.steps() == [4, SAVED_BEFORE]
    for step in launcher.steps():
        assert not checkpoint.find_damage(launcher.run_dir, rundir.checkpoint_name(step))
    assert orphans(launcher) == []


def told(ended: Ended) -> str:
    """The one line that a command ended with."""
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.stderr
    return lines[0].removeprefix("error: ")


def move(launcher: Launcher, folder: Path) -> Launcher:
    """A copy of a job and its runs."""
    shutil.copytree(launcher.folder, folder, dirs_exist_ok=True)
    return Launcher(folder / "job.yaml")


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
