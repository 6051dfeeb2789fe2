"""Every file name of a run directory, and how its files come to be: whole or not at all.

What the files mean belongs to the modules that write them.
"""

import contextlib
import errno
import json
import os
import re
import shlex
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, cast

import fsspec

from launcher.errors import NoSuchRunError, StorageError

DEFAULT_STORAGE = "runs"
SPEC = "spec.yaml"
PLAN = "plan.json"
RECORD = "record.json"
OUTCOME = "outcome.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
LOCK = "lock"
STOP = "stop-requested"
PROBE = "storage-probe"
WANDB = "wandb"
WANDB_RUN = "wandb.json"
LOGS = "logs"
WANDB_LOG = f"{LOGS}/wandb.log"
WANDB_LOCK = "wandb/lock"
CHECKPOINTS = "checkpoints"
CODE = "code"
MANIFEST = "manifest.json"
STATE = "state.json"


def checkpoint_name(step: int) -> str:
    """`checkpoints/step-00000050`."""
    return f"{CHECKPOINTS}/step-{step:08d}"


def checkpoint_step(name: str) -> int:
    """The step in the name of a checkpoint's folder; 0 for any other name."""
    match = re.search(r"(?:^|/)step-(\d{8,})$", name)
    return int(match[1]) if match else 0


def tensor_file(group: str) -> str:
    """`model.safetensors`."""
    return f"{group}.safetensors"


def attempt_logs(attempt: int) -> str:
    """`logs/attempt-0001`."""
    return f"{LOGS}/attempt-{attempt:04d}"


def attempt_number(name: str) -> int:
    """The attempt that a folder of logs belongs to; 0 for any other name."""
    match = re.fullmatch(r"attempt-(\d{4,})", name)
    return int(match[1]) if match else 0


def rank_log(attempt: int, rank: int) -> str:
    """`logs/attempt-0001/rank-00000.log`."""
    return f"{attempt_logs(attempt)}/rank-{rank:05d}.log"


def new_run_id(name: str, *, now: datetime, suffix: str) -> str:
    """`digits-cnn-20261122-134501-3fa9`: sorts by time within a name."""
    return f"{name}-{now.astimezone(UTC):%Y%m%d-%H%M%S}-{suffix}"


def started_order(run_id: str) -> tuple[str, str]:
    """Sorts run ids of any name by the time in them."""
    match = re.search(r"-(\d{8}-\d{6})-[0-9a-f]+$", run_id)
    return (match[1] if match else "", run_id)


@dataclass(frozen=True)
class RunDir:
    """One run's directory: a local folder or an fsspec URL."""

    url: str

    @property
    def run_id(self) -> str:
        return self.url.rstrip("/").rsplit("/", 1)[-1]

    @property
    def reference(self) -> str:
        """How a command in this folder names it: its id where `./runs` holds it, else its path."""
        here = str(Path(DEFAULT_STORAGE).absolute())
        return self.run_id if self.path() == f"{here}/{self.run_id}" else shlex.quote(self.path())

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    def path(self, name: str = "") -> str:
        """The full path or URL of a file in this directory."""
        return f"{self.url.rstrip('/')}/{name}".rstrip("/")

    def local(self, name: str = "") -> Path:
        """The same as a local path, for what only a local folder can hold (locks, live logs)."""
        if not self.is_local:
            raise StorageError(f"{self.url} is not a local folder; this needs one")
        return Path(self.path(name))

    def exists(self, name: str = "") -> bool:
        fs, path = _open_fs(self.path(name))
        return bool(fs.exists(path))

    def names(self, folder: str) -> list[str]:
        """Names of the entries of a folder, sorted; none when the folder does not exist."""
        fs, path = _open_fs(self.path(folder))
        try:
            with reading_errors(path):
                entries = fs.ls(path, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def read(self, name: str) -> bytes:
        """The file's content; FileNotFoundError when there is none."""
        fs, path = _open_fs(self.path(name))
        with reading_errors(path):
            return cast(bytes, fs.cat_file(path))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in a file, None when the file does not exist."""
        try:
            return cast(dict[str, Any], json.loads(self.read(name)))
        except FileNotFoundError:
            return None

    def read_lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The JSON objects of a `.jsonl` file; a last line cut short by a crash is not one."""
        try:
            content = self.read(name)
        except FileNotFoundError:
            return
        for line in content.split(b"\n")[:-1]:
            yield json.loads(line)

    def write(self, name: str, data: bytes) -> None:
        """Puts the whole file there, or leaves what was there; durable when it returns."""
        with storage_errors(self.path(name)):
            if not self.is_local:
                fs, path = _open_fs(self.path(name))
                fs.pipe_file(path, data)
                return
            target = self.local(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
            try:
                with scratch.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                scratch.replace(target)
            finally:
                scratch.unlink(missing_ok=True)
            sync(target.parent)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2).encode() + b"\n")

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Adds one line of JSON; lines of several processes never mix."""
        with storage_errors(self.path(name)), self.local(name).open("ab", buffering=0) as file:
            append_line(file, row)

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if it is there."""
        fs, path = _open_fs(self.path(name))
        with storage_errors(path), contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)


def create(storage: str, run_id: str) -> RunDir:
    """Makes the directory of a new run; StorageError when the storage cannot be written."""
    run_dir = RunDir(f"{storage.rstrip('/')}/{run_id}")
    with storage_errors(run_dir.url):
        fs, path = _open_fs(run_dir.url)
        if fs.exists(path):
            raise StorageError(f"{run_dir.url} exists already; run ids are never used twice")
        fs.makedirs(path, exist_ok=True)
    return run_dir


def all_runs(storage: str) -> list[RunDir]:
    """Every run in a storage, the newest last."""
    names = RunDir(storage).names("")
    ids = [name for name in names if started_order(name)[0]]
    return [RunDir(f"{storage.rstrip('/')}/{name}") for name in sorted(ids, key=started_order)]


def find(reference: str, *, storage: str) -> RunDir:
    """The run that a person means by an id, a unique prefix, a path or `@last`."""
    if reference != "@last" and RunDir(reference).exists(SPEC):
        return RunDir(str(Path(reference).resolve()) if "://" not in reference else reference)
    runs = all_runs(storage)
    if reference == "@last":
        if not runs:
            raise NoSuchRunError(f"{storage} holds no run yet; `launcher run SPEC` makes one")
        return runs[-1]
    exact = [run for run in runs if run.run_id == reference]
    matches = exact or [run for run in runs if run.run_id.startswith(reference)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(run.run_id for run in matches[-5:])
        raise NoSuchRunError(f"{reference} is the start of {len(matches)} run ids: {ids}")
    raise NoSuchRunError(
        f"no run {reference} in {storage}; `launcher ls` lists them, --storage looks elsewhere"
    )


@contextlib.contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Turns what the operating system says of a storage into one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(explain_os_error(error, place=place)) from error


@contextlib.contextmanager
def reading_errors(place: str) -> Iterator[None]:
    """The same for a read; that a file is not there is for the caller to know."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read {place}: {error.strerror or error}") from error


def explain_os_error(error: OSError, *, place: str) -> str:
    """One line about a failed read or write."""
    what = error.strerror or str(error)
    return (
        f"cannot write {place}: {what}; nothing that was saved before is lost. Make room or "
        "rights there; `launcher resume` then goes on with a run that had begun"
    )


def append_line(file: FileIO, row: Mapping[str, Any]) -> None:
    """Adds one line of JSON to a file opened for appending: all of it, or OSError and nothing."""
    line = json.dumps(row).encode() + b"\n"
    written = file.write(line)
    if written < len(line):  # the room ended in the middle
        file.truncate(file.tell() - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open_fs(url: str) -> tuple[Any, str]:
    return cast(tuple[Any, str], fsspec.core.url_to_fs(url))


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
