"""Files at a path or an fsspec URL: read whole, and written whole or not at all.

What the files of a run are called, and what is in them, others know.
"""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from launcher.errors import LauncherError, PreflightError, SpecError, StorageError

_PACKAGES = {"s3": "'torch-launcher[s3]'", "gs": "gcsfs"}
"""Object stores, and what brings their clients: a file there is replaced as a whole, or made only
if it is new. Other kinds of URL promise neither."""


def is_url(place: str) -> bool:
    return "://" in place


def check_url(place: str) -> None:
    """SpecError where it can be no storage; PreflightError where a package is missing for it."""
    protocol, _, rest = place.partition("://")
    if "@" in rest.partition("/")[0]:
        raise SpecError(
            "storage has a user or a password in its URL, which would be written down; name it "
            "without, and give credentials as the store's own client finds them"
        )
    if protocol not in _PACKAGES:
        raise SpecError(
            f"storage is {place}, and {protocol}:// is no kind of storage that runs can be kept "
            f"in; name a folder, or a URL of {' or '.join(f'{known}://' for known in _PACKAGES)}"
        )
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise PreflightError(
            f"storage is {place}, for which a package is missing: "
            f"`pip install {_PACKAGES[protocol]}`"
        ) from error


def exists(place: str) -> bool:
    fs, path = _open_fs(place)
    with reading_errors(place):
        return bool(fs.exists(path))


def size(place: str) -> int:
    """Bytes of a file; FileNotFoundError when there is none."""
    fs, path = _open_fs(place)
    with reading_errors(place):
        return int(fs.size(path))


def read(place: str, *, start: int = 0) -> bytes:
    """The file's content from a byte on; FileNotFoundError when there is none."""
    fs, path = _open_fs(place)
    with reading_errors(place):
        return cast(bytes, fs.cat_file(path, start=start or None))


@contextlib.contextmanager
def reader(place: str) -> Iterator[IO[bytes]]:
    """The file, opened for reading from its start to its end."""
    if not is_url(place):
        with Path(place).open("rb", buffering=0) as file:
            yield file
        return
    fs, path = _open_fs(place)
    with reading_errors(place), fs.open(path, "rb", cache_type="readahead") as file:
        yield file


def names(folder: str) -> list[str]:
    """Names of the entries of a folder, sorted; none when the folder does not exist."""
    fs, path = _open_fs(folder)
    try:
        with reading_errors(folder):
            entries = fs.ls(path, detail=False, refresh=True)
    except FileNotFoundError:
        return []
    return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)


def require_bucket(place: str) -> None:
    """StorageError where not even the bucket of a URL is there."""
    bucket = "/".join(place.split("/")[:3])
    fs, path = _open_fs(bucket)
    with storage_errors(bucket):
        fs.ls(path, detail=False, refresh=True)


def files_below(folder: str) -> list[str]:
    """Every file of a folder and the folders in it, relative to it, sorted."""
    fs, path = _open_fs(folder)
    with reading_errors(folder):
        found = fs.find(path, refresh=True)
    return sorted(str(file)[len(path.rstrip("/")) + 1 :] for file in found)


def write(place: str, data: bytes) -> None:
    """Puts the whole file there, or leaves what was there; durable when it returns."""
    with storage_errors(place):
        if is_url(place):
            fs, path = _open_fs(place)
            fs.pipe_file(path, data)
            return
        target = Path(place)
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


def write_new(place: str, data: bytes) -> bool:
    """Puts the file there unless there is one already; whether it did."""
    fs, path = _open_fs(place)
    with storage_errors(place):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
    return True


def put(folder: Path, place: str, names: Sequence[str]) -> None:
    """Copies these files of a folder there, several at a time where the storage takes that.

    FileNotFoundError when one of them is gone.
    """
    for name in names:
        if not (folder / name).exists():
            raise FileNotFoundError(folder / name)
    fs, path = _open_fs(place)
    with storage_errors(place):
        fs.put([f"{folder}/{name}" for name in names], [f"{path}/{name}" for name in names])


def get(place: str, folder: Path, names: Sequence[str]) -> None:
    """Copies these files from there into a folder of this host, several at a time.

    FileNotFoundError when one of them is not there.
    """
    fs, path = _open_fs(place)
    for name in names:
        with storage_errors(str(folder)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with reading_errors(place):
        fs.get([f"{path}/{name}" for name in names], [f"{folder}/{name}" for name in names])


def make_folder(place: str) -> None:
    """Makes a folder; storage of URLs has none that are not made by the files in them."""
    if not is_url(place):
        with storage_errors(place):
            Path(place).mkdir(parents=True, exist_ok=True)


def remove(place: str) -> None:
    """Removes a file or a folder, if it is there."""
    fs, path = _open_fs(place)
    with storage_errors(place), contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def append_line(file: FileIO, row: Mapping[str, Any]) -> None:
    """Adds one line of JSON to a file opened for appending: all of it, or OSError and nothing."""
    line = json.dumps(row).encode() + b"\n"
    written = file.write(line)
    if written < len(line):  # the room ended in the middle
        file.truncate(file.tell() - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Turns what a storage says into one line that says what to do."""
    try:
        yield
    except Exception as error:
        if _is_ours(error, place):
            raise
        if isinstance(error, FileNotFoundError) and is_url(place):
            raise StorageError(
                f"cannot use {place}: {_reason(error)}; make it first, or name another storage"
            ) from error
        raise StorageError(
            f"cannot write {place}: {_reason(error)}; nothing that was saved before is lost. Make "
            "room or rights there; `launcher resume` then goes on with a run that had begun"
        ) from error


@contextlib.contextmanager
def reading_errors(place: str) -> Iterator[None]:
    """The same for a read; that a file is not there is for the caller to know."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FileNotFoundError) or _is_ours(error, place):
            raise
        raise StorageError(f"cannot read {place}: {_reason(error)}") from error


def _is_ours(error: Exception, place: str) -> bool:
    """Whether it is none of the storage's; each kind of URL has errors of its own."""
    return isinstance(error, LauncherError) or not (isinstance(error, OSError) or is_url(place))


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)


def _open_fs(place: str) -> tuple[Any, str]:
    """A listing that was kept would not tell what others have written since."""
    options = {"auto_mkdir": True} if place.startswith("file://") else {}
    return cast(tuple[Any, str], fsspec.core.url_to_fs(place, use_listings_cache=False, **options))
