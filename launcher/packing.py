"""Which files of a job's folder go to a cluster: its code, never its secrets or its runs.

Sending them, and sending nothing when nothing changed, is the cluster's client's work.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from launcher import rundir
from launcher.errors import SpecError

MAX_BYTES = 100 << 20
MAX_FILES = 20_000
_IGNORE_FILES = (".gitignore", ".launcherignore")
_NEVER = GitIgnoreSpec.from_lines(
    [
        ".git",
        "__pycache__/",
        "*.pyc",
        ".venv/",
        "node_modules/",
        ".*_cache/",
        ".env",
        ".env.*",
        ".netrc",
        ".ssh/",
        ".aws/",
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "id_rsa*",
        "id_dsa*",
        "id_ecdsa*",
        "id_ed25519*",
    ]
)
"""History, what Python makes again, and keys: they stay here whatever the ignore files say."""
_LARGEST_SHOWN = 10


@dataclass(frozen=True)
class Packed:
    """One file that goes."""

    name: str
    """Relative to the folder, with `/`."""
    size_bytes: int


def upload_list(folder: Path) -> list[Packed]:
    """The files that go, sorted by name; SpecError when they are too many or too large."""
    files: list[Packed] = []
    size_bytes = 0
    for packed in _walk(folder, "", ()):
        files.append(packed)
        size_bytes += packed.size_bytes
        if size_bytes > MAX_BYTES * 10 or len(files) > MAX_FILES:
            break  # it is refused anyway, and soon
    if size_bytes > MAX_BYTES or len(files) > MAX_FILES:
        raise SpecError(_too_large(folder, files, size_bytes))
    return sorted(files, key=lambda packed: packed.name)


def _too_large(folder: Path, files: Sequence[Packed], size_bytes: int) -> str:
    largest = sorted(files, key=lambda packed: -packed.size_bytes)[:_LARGEST_SHOWN]
    lines = [f"  {_mib(packed.size_bytes)}  {packed.name}" for packed in largest]
    return "\n".join(
        [
            f"{folder} has {len(files)} files of {_mib(size_bytes)} to send, more than "
            f"{MAX_FILES} or {_mib(MAX_BYTES)}; name in .launcherignore what the job does not "
            "need, and keep data where the cluster reads it. The largest:",
            *lines,
        ]
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"


@dataclass(frozen=True)
class _Ignore:
    """The patterns of one folder's ignore files, and where they count from."""

    base: str
    patterns: GitIgnoreSpec


def _walk(root: Path, inside: str, above: tuple[_Ignore, ...]) -> Iterator[Packed]:
    folder = root / inside
    ignores = (*above, *_ignores(folder, inside))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{inside}/{entry.name}" if inside else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if _is_left_out(name, ignores, is_folder=is_folder):
                continue
            if is_folder:
                if not _is_made_here(Path(entry.path)):
                    yield from _walk(root, name, ignores)
            elif entry.is_file():
                yield Packed(name, entry.stat().st_size)


def _ignores(folder: Path, inside: str) -> Iterator[_Ignore]:
    for name in _IGNORE_FILES:
        file = folder / name
        if file.is_file():
            lines = file.read_text(errors="replace").splitlines()
            yield _Ignore(inside, GitIgnoreSpec.from_lines(lines))


def _is_left_out(name: str, ignores: Sequence[_Ignore], *, is_folder: bool) -> bool:
    """The deepest ignore file that says something of a name decides, as in git."""
    slash = "/" if is_folder else ""
    if _NEVER.match_file(name + slash):
        return True
    for ignore in reversed(ignores):
        relative = name.removeprefix(f"{ignore.base}/") if ignore.base else name
        verdict = ignore.patterns.check_file(relative + slash).include
        if verdict is not None:
            return verdict
    return False


def _is_made_here(folder: Path) -> bool:
    """A virtual environment, or the directory of a run."""
    return (folder / "pyvenv.cfg").exists() or (
        (folder / rundir.PLAN).exists() and (folder / rundir.SPEC).exists()
    )
