"""What an exception in a rank means: the kind of failure, and words for it.

What follows from a kind is decided in `retry`.
"""

import errno
import re
import traceback
from pathlib import Path

import torch

from launcher.distributed import is_peer_loss
from launcher.errors import (
    DivergedError,
    LauncherError,
    PreflightError,
    SpecError,
    StorageError,
)
from launcher.outcome import Failure, Kind

_UNUSED = "Expected to have finished reduction in the prior iteration"
_NO_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_SAID_IN_A_LINE = ("spec", "storage", "preflight", "diverged", "lost")
_PACKAGE = Path(__file__).parent
_CALLS_USER_CODE = {"task.py", "loader.py", "loop.py", "evaluation.py"}
"""Where an error in the innermost frame may be the user's: a call with the wrong arguments, say."""
_OURS_AND_TORCHS = (f"{_PACKAGE}/", f"{Path(torch.__file__).parent}/utils/data/")


def describe(error: BaseException, *, rank: int) -> Failure:
    """The failure that an exception stands for."""
    kind = _kind(error)
    if isinstance(error, LauncherError):
        message = str(error)
    elif _UNUSED in str(error):
        message = (
            "some parameters got no gradient in the step before; where that is meant, "
            "`--set strategy.find_unused_parameters=true`"
        )
    elif loader := re.match(r"Caught \w+ in (DataLoader worker process \d+)", str(error)):
        message = f"{str(error).rstrip().splitlines()[-1]} (in {loader[1]})"
    else:
        message = f"{type(error).__name__}: {error}"
    return Failure(kind=kind, message=message, rank=rank, traceback=_traceback(error, kind))


def _traceback(error: BaseException, kind: Kind) -> str:
    """Python's traceback, from the first frame that is the user's; empty where it says nothing."""
    if kind in _SAID_IN_A_LINE:
        return ""
    if str(error).startswith("Caught "):
        entries = re.split(r"(?=^  File )", str(error), flags=re.MULTILINE)
        return "".join(entry for entry in entries if not _is_framework(entry))
    frames = error.__traceback__
    while kind != "bug" and frames and _is_framework(f'"{frames.tb_frame.f_code.co_filename}'):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))


def _is_framework(entry: str) -> bool:
    return any(f'"{folder}' in entry for folder in _OURS_AND_TORCHS)


def _kind(error: BaseException) -> Kind:
    match error:
        case SpecError():
            return "spec"
        case StorageError():
            return "storage"
        case DivergedError():
            return "diverged"
        case PreflightError():
            return "preflight"
        case OSError(errno=code) if code in _NO_STORAGE:
            return "storage"
        case torch.OutOfMemoryError() | MemoryError():
            return "out_of_memory"
        case RuntimeError() if "can't allocate memory" in str(error):
            return "out_of_memory"
        case RuntimeError() if "DataLoader worker (pid" in str(error):
            return "lost"
    if is_peer_loss(error):
        return "lost"
    return "bug" if _raised_by_us(error) else "user_code"


def _raised_by_us(error: BaseException) -> bool:
    """Whether the innermost frame is the launcher's own, where it calls no code of the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    file = Path(frames[-1].filename) if frames else Path()
    return file.is_relative_to(_PACKAGE) and file.name not in _CALLS_USER_CODE
