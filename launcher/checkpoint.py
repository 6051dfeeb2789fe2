"""Checkpoints as folders: layout, commit, verification, retention. No tensors here, no torch.

What is in the files is the strategies' knowledge; when they are written, `saving`'s.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from launcher import rundir, storage
from launcher.errors import StorageError
from launcher.rundir import RunDir

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Choice:
    """The checkpoint to go on from, and the newer ones that had to be passed over."""

    name: str
    """Relative to the run directory; empty when there is none."""
    passed_over: tuple[str, ...]
    """One sentence each: which, and what is wrong with it."""


def committed_steps(run_dir: RunDir) -> list[int]:
    """Steps of the checkpoints that have a manifest, the newest last."""
    return sorted(
        step
        for step in _steps(run_dir)
        if run_dir.exists(f"{rundir.checkpoint_name(step)}/{rundir.MANIFEST}")
    )


def newest_valid(run_dir: RunDir) -> Choice:
    """The newest checkpoint whose every file matches its manifest."""
    passed_over: list[str] = []
    for step in reversed(committed_steps(run_dir)):
        name = rundir.checkpoint_name(step)
        reason = find_damage(run_dir, name)
        if not reason:
            return Choice(name=name, passed_over=tuple(passed_over))
        passed_over.append(f"{name} is damaged ({reason})")
    return Choice(name="", passed_over=tuple(passed_over))


def find_damage(run_dir: RunDir, name: str) -> str:
    """Why a checkpoint cannot be trusted; empty when every byte is as it was written."""
    try:
        manifest = json.loads(run_dir.read(f"{name}/{rundir.MANIFEST}"))
        expected = {
            f"{name}/{file}": (described["bytes"], described["sha256"])
            for file, described in manifest["files"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{rundir.MANIFEST} is unreadable: {error}"
    if f"{name}/{rundir.STATE}" not in expected:
        return f"{rundir.MANIFEST} does not name {rundir.STATE}"
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda file: _file_damage(run_dir, file, *expected[file]), expected)
        return next((damage for damage in found if damage), "")


def clear(run_dir: RunDir, name: str) -> Path:
    """An empty local folder for a new checkpoint; what half-written one was there is gone."""
    run_dir.remove(f"{name}/{rundir.MANIFEST}")
    run_dir.remove(name)
    folder = run_dir.local(name)
    with storage.storage_errors(str(folder)):
        folder.mkdir(parents=True)
    return folder


def commit(run_dir: RunDir, name: str) -> None:
    """Makes the files of a folder a checkpoint: durable first, then named in its manifest."""
    folder = run_dir.local(name)
    with storage.storage_errors(str(folder)):
        files = {path.name: _describe(path) for path in sorted(folder.iterdir())}
    run_dir.write_json(f"{name}/{rundir.MANIFEST}", {"schema": 1, "files": files})
    with storage.storage_errors(str(folder)):
        storage.sync(folder.parent)


def prune(run_dir: RunDir, *, keep_last: int, newest: int) -> list[str]:
    """Removes all but the last checkpoints up to step `newest`; returns the names that went.

    A later one was passed over as damaged when the run went on from before it: it replaces none.
    """
    steps = [step for step in committed_steps(run_dir) if step <= newest]
    names = [rundir.checkpoint_name(step) for step in steps[:-keep_last]]
    for name in names:
        run_dir.remove(f"{name}/{rundir.MANIFEST}")
        run_dir.remove(name)
    return names


def remove_unfinished(run_dir: RunDir) -> None:
    """Removes folders that a killed run left without a manifest."""
    committed = set(committed_steps(run_dir))
    for step in _steps(run_dir):
        if step not in committed:
            run_dir.remove(rundir.checkpoint_name(step))


def publish(run_dir: RunDir, name: str, folder: Path) -> None:
    """Copies a checkpoint's files to the run's URL; there, too, the manifest comes last."""
    target, manifest = run_dir.stored, (folder / rundir.MANIFEST).read_bytes()
    target.remove(f"{name}/{rundir.MANIFEST}")
    storage.put(folder, target.path(name), list(json.loads(manifest)["files"]))
    target.write(f"{name}/{rundir.MANIFEST}", manifest)


def fetch(run_dir: RunDir, name: str) -> None:
    """Copies a checkpoint from the run's URL into its folder, unless it is there."""
    if not name or not run_dir.folder or run_dir.exists(f"{name}/{rundir.MANIFEST}"):
        return
    files = [file for file in run_dir.stored.names(name) if file != rundir.MANIFEST]
    for those in (files, [rundir.MANIFEST]):
        storage.get(run_dir.path(name), run_dir.local(name), those)


@contextlib.contextmanager
def linked(run_dir: RunDir, name: str) -> Iterator[Path]:
    """Other names of a checkpoint's files, for it to be read whole though it is pruned meanwhile.

    FileNotFoundError when it was pruned already.
    """
    folder = run_dir.local(name)
    other = folder.with_name(f".{folder.name}")
    shutil.rmtree(other, ignore_errors=True)
    try:
        with storage.storage_errors(str(other)):
            other.mkdir()
        for file in (*_named_in_manifest(run_dir, name), rundir.MANIFEST):
            _link(folder / file, other / file)
        yield other
    finally:
        shutil.rmtree(other, ignore_errors=True)


def _named_in_manifest(run_dir: RunDir, name: str) -> list[str]:
    return list(json.loads(run_dir.read(f"{name}/{rundir.MANIFEST}"))["files"])


def _link(file: Path, other: Path) -> None:
    """Where a file system has no second names, the file is copied."""
    with storage.reading_errors(str(file)):
        try:
            other.hardlink_to(file)
        except PermissionError:
            shutil.copy2(file, other)


def discard_after(run_dir: RunDir, step: int) -> None:
    """Removes the checkpoints of later steps."""
    for later in (found for found in _steps(run_dir) if found > step):
        run_dir.remove(f"{rundir.checkpoint_name(later)}/{rundir.MANIFEST}")
        run_dir.remove(rundir.checkpoint_name(later))


def _steps(run_dir: RunDir) -> Iterator[int]:
    for folder in run_dir.names(rundir.CHECKPOINTS):
        step = rundir.checkpoint_step(folder)
        if step:
            yield step


def _file_damage(run_dir: RunDir, file: str, expected_bytes: int, expected_sha256: str) -> str:
    short = file.rsplit("/", 1)[-1]
    try:
        with run_dir.opened(file) as opened:
            size, digest = _measure(opened)
    except FileNotFoundError:
        return f"{short} is not there"
    except (OSError, StorageError) as error:
        return f"{short}: {error}"
    if size != expected_bytes:
        return f"{short} has {size} bytes, not {expected_bytes}"
    return "" if digest == expected_sha256 else f"{short} does not match its hash"


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb", buffering=0) as file:
        size, digest = _measure(file)
    storage.sync(path)
    return {"bytes": size, "sha256": digest}


def _measure(file: IO[bytes]) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()
