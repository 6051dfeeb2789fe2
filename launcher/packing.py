"""Which files of a job's folder go to a cluster: its code, never its secrets or its runs.

Sending them, and sending nothing when nothing changed, is the cluster's client's work.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pathspec import GitIgnoreSpec

from launcher import rundir
from launcher.errors import SpecError

MAX_BYTES = 100 << 20
MAX_FILES = 20_000
_IGNORE_FILES = (".gitignore", ".launcherignore")
_KEYS = (
    ".git",
    ".env",
    ".env.*",
    ".netrc",
    ".git-credentials",
    ".pypirc",
    ".ssh/",
    ".aws/",
    ".azure/",
    ".gnupg/",
    ".kube/",
    "**/.docker/config.json",
    "**/.config/gcloud/",
    "**/.cache/huggingface/token",
    ".launcher/",
    ".ray/",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
)
"""History too: it may hold a key that was taken back, and its settings a password."""
_MADE_AGAIN = ("__pycache__/", "*.pyc", ".venv/", "node_modules/", ".*_cache/")
_NEVER_OUTSIDE = GitIgnoreSpec.from_lines(_KEYS)
_NEVER = GitIgnoreSpec.from_lines((*_KEYS, *_MADE_AGAIN))
"""They stay here whatever the ignore files say."""
_LARGEST_SHOWN = 10
_KEY_BYTES = 1 << 14
"""No private key is longer."""


@dataclass(frozen=True)
class Packed:
    """One file that goes."""

    name: str
    """Relative to the folder, with `/`."""
    size_bytes: int


@dataclass(frozen=True)
class Upload:
    """What of a folder goes, as far as it was looked through."""

    files: tuple[Packed, ...]
    """By name."""
    refusal: str
    """Why it cannot be sent; empty where it can."""

    @property
    def size_bytes(self) -> int:
        return sum(packed.size_bytes for packed in self.files)

    def largest(self, count: int) -> list[Packed]:
        """The largest first."""
        return sorted(self.files, key=lambda packed: -packed.size_bytes)[:count]


def upload_list(folder: Path) -> Sequence[Packed]:
    """The files that go, sorted by name; SpecError when they are too many or too large."""
    upload = survey(folder)
    if upload.refusal:
        raise SpecError(upload.refusal)
    return upload.files


def survey(folder: Path) -> Upload:
    """What would go of a folder, and whether it may."""
    files: list[Packed] = []
    size_bytes = 0
    try:
        for packed in _walk(folder, "", ()):
            files.append(packed)
            size_bytes += packed.size_bytes
            if size_bytes > MAX_BYTES * 10 or len(files) > MAX_FILES:
                break  # it is refused anyway, and soon
    except OSError as error:
        return Upload(tuple(files), f"{error.filename} cannot be sent: {error.strerror}")
    upload = Upload(tuple(sorted(files, key=lambda packed: packed.name)), "")
    if size_bytes > MAX_BYTES or len(files) > MAX_FILES:
        return replace(upload, refusal=_too_large(folder, upload))
    return upload


def _too_large(folder: Path, upload: Upload) -> str:
    return "\n".join(
        [
            f"{folder} has {len(upload.files)} files of {size_text(upload.size_bytes)} to send, "
            f"more than {MAX_FILES} or {size_text(MAX_BYTES)}; name in .launcherignore what the "
            "job does not need, and keep data where the cluster reads it. The largest:",
            *map(file_text, upload.largest(_LARGEST_SHOWN)),
        ]
    )


def file_text(packed: Packed) -> str:
    """A line about one file."""
    return f"  {size_text(packed.size_bytes)}  {packed.name}"


def size_text(size_bytes: int) -> str:
    """`1.4 MiB`; what is smaller than one, in KiB."""
    if size_bytes < 1 << 20:
        return f"{size_bytes / (1 << 10):.1f} KiB"
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
            elif _is_file_that_goes(Path(entry.path), root, is_link=entry.is_symlink()):
                yield Packed(name, entry.stat().st_size)


def _is_file_that_goes(path: Path, root: Path, *, is_link: bool) -> bool:
    """Of a link it is the content that goes, where every file on the way to it would go, too."""
    if not path.is_file() or (is_link and any(_stays(place, root) for place in _way(path))):
        return False
    return path.suffix == ".py" or not _holds_key(path)


def _holds_key(path: Path) -> bool:
    """Whether it is a private key by what is in it, whatever its name: PEM, or JSON around it."""
    with path.open("rb") as file:
        beginning = file.read(_KEY_BYTES) if os.fstat(file.fileno()).st_size <= _KEY_BYTES else b""
    return b"-----BEGIN " in beginning and b"PRIVATE KEY-----" in beginning


def _way(link: Path) -> Iterator[Path]:
    """The real places that a link leads to, from link to link."""
    while link.is_symlink():
        target = link.parent / link.readlink()
        link = target.parent.resolve() / target.name
        yield link


def _stays(place: Path, root: Path) -> bool:
    """Whether a file does not go under its own name; outside of the folder only keys stay."""
    if not place.is_relative_to(root.resolve()):
        return bool(_NEVER_OUTSIDE.match_file(place.as_posix().lstrip("/")))
    ignores: tuple[_Ignore, ...] = ()
    name = place.relative_to(root.resolve())
    for folder in reversed(name.parents[:-1]):
        ignores = (*ignores, *_ignores(root / folder.parent, _inside(folder.parent)))
        left_out = _is_left_out(folder.as_posix(), ignores, is_folder=True)
        if left_out or _is_made_here(root / folder):
            return True
    ignores = (*ignores, *_ignores(root / name.parent, _inside(name.parent)))
    return _is_left_out(name.as_posix(), ignores, is_folder=False)


def _inside(folder: Path) -> str:
    return "" if folder == Path() else folder.as_posix()


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
