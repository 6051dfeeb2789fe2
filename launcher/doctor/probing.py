"""Writes to a storage to see whether it can be done, and takes away again what it wrote.

What the trouble means for training is told in the verdicts.
"""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from launcher.rundir import PROBE, RunDir
from launcher.storage import is_url

_WRITTEN = b"written by launcher doctor"


def write_trouble(storage: str) -> str:
    """Why nothing can be written to the storage, empty when it can; leaves nothing behind."""
    try:
        if not is_url(storage):
            with tempfile.TemporaryFile(dir=_nearest(storage)) as file:
                file.write(_WRITTEN)
        else:
            run_dir, name = RunDir(storage), f".doctor-{uuid.uuid4().hex}"
            run_dir.write(name, _WRITTEN)
            run_dir.remove(name)
    except Exception as error:  # noqa: BLE001  # every fsspec backend raises errors of its own
        return f"{type(error).__name__}: {error}"
    return ""


def free_bytes(storage: str) -> float:
    """Bytes free for a local storage; of any other, infinity."""
    return float("inf") if is_url(storage) else shutil.disk_usage(_nearest(storage)).free


@contextlib.contextmanager
def probe(storage: str, *, marker: str) -> Iterator[RunDir]:
    """A folder in the storage, like that of a run, with the probe by which hosts know it."""
    run_dir = RunDir(f"{storage.rstrip('/')}/.doctor-{marker}")
    missing = [] if is_url(storage) else _missing(storage)
    try:
        run_dir.write(PROBE, marker.encode())
        yield run_dir
    finally:
        run_dir.remove("")
        for folder in missing:
            with contextlib.suppress(OSError):  # a run has been put there meanwhile
                folder.rmdir()


def _missing(storage: str) -> list[Path]:
    """The folders that a run would make, the innermost first."""
    return [path for path in (Path(storage), *Path(storage).parents) if not path.exists()]


def _nearest(storage: str) -> Path:
    """The storage, or the folder around it that exists; a run would make the rest."""
    return next(path for path in (Path(storage), *Path(storage).parents) if path.exists())
