"""Every file name of a run directory, and where a run is found.

What the files mean belongs to the modules that write them; how they are written, to `storage`.
"""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from launcher import storage
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
KEPT = ".kept"
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
    """One run's directory: a folder, or an fsspec URL."""

    url: str
    folder: str = ""
    """Of a URL: where this host works on it. `mirror` brings what is new there to the URL."""

    @property
    def run_id(self) -> str:
        return self.url.rstrip("/").rsplit("/", 1)[-1]

    @property
    def reference(self) -> str:
        """How a command in this folder names it: its id where `./runs` holds it, else its path."""
        here = str(Path(DEFAULT_STORAGE).absolute())
        return self.run_id if self.path() == f"{here}/{self.run_id}" else shlex.quote(self.path())

    @property
    def stored(self) -> "RunDir":
        """What others see of it."""
        return RunDir(self.url)

    @property
    def is_local(self) -> bool:
        return not storage.is_url(self._place)

    def path(self, name: str = "") -> str:
        """The full path or URL of a file in this directory."""
        return f"{self.url.rstrip('/')}/{name}".rstrip("/")

    def local(self, name: str = "") -> Path:
        """A file's path on this host, for what only a folder can hold (locks, live logs)."""
        if not self.is_local:
            raise StorageError(f"{self.url} is not a local folder; this needs one")
        return Path(self._place, name)

    def exists(self, name: str = "") -> bool:
        return storage.exists(self._at(name))

    def names(self, folder: str) -> list[str]:
        """Names of the entries of a folder, sorted; none when the folder does not exist."""
        return storage.names(self._at(folder))

    def read(self, name: str) -> bytes:
        """The file's content; FileNotFoundError when there is none."""
        return storage.read(self._at(name))

    def opened(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """The file, to be read from its start to its end; FileNotFoundError when there is none."""
        return storage.reader(self._at(name))

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
        storage.write(self._at(name), data)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2).encode() + b"\n")

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Adds one line of JSON; lines of several processes never mix."""
        path = self.local(name)
        with storage.storage_errors(str(path)), path.open("ab", buffering=0) as file:
            storage.append_line(file, row)

    def bring(self, *names: str) -> None:
        """Copies files of its folder to its URL; FileNotFoundError when one is gone."""
        storage.put(self.local(), self.url, names)

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if it is there."""
        storage.remove(self._at(name))

    @property
    def _place(self) -> str:
        return self.folder or self.url

    def _at(self, name: str) -> str:
        return f"{self._place.rstrip('/')}/{name}".rstrip("/")


def create(place: str, run_id: str) -> RunDir:
    """Makes the directory of a new run; StorageError when the storage cannot be written."""
    run_dir = RunDir(f"{place.rstrip('/')}/{run_id}")
    if run_dir.exists():
        raise StorageError(f"{run_dir.url} exists already; run ids are never used twice")
    storage.make_folder(run_dir.url)
    return run_dir


def all_runs(place: str) -> list[RunDir]:
    """Every run in a storage, the newest last."""
    names = RunDir(place).names("")
    if not names and storage.is_url(place):
        storage.require_bucket(place)
    ids = [name for name in names if started_order(name)[0]]
    return [RunDir(f"{place.rstrip('/')}/{name}") for name in sorted(ids, key=started_order)]


def find(reference: str, *, place: str) -> RunDir:
    """The run that a person means by an id, a unique prefix, a path or `@last`."""
    if reference != "@last" and RunDir(reference).exists(SPEC):
        is_url = storage.is_url(reference)
        return RunDir(reference.rstrip("/") if is_url else str(Path(reference).resolve()))
    runs = all_runs(place)
    if reference == "@last":
        if not runs:
            raise NoSuchRunError(f"{place} holds no run yet; `launcher run SPEC` makes one")
        return runs[-1]
    exact = [run for run in runs if run.run_id == reference]
    matches = exact or [run for run in runs if run.run_id.startswith(reference)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(run.run_id for run in matches[-5:])
        raise NoSuchRunError(f"{reference} is the start of {len(matches)} run ids: {ids}")
    raise NoSuchRunError(
        f"no run {reference} in {place}; `launcher ls` lists them, --storage looks elsewhere"
    )
