"""What an exception in a rank means: the kind of failure, and words for it.

What follows from a kind is decided in `retry`.
"""

import errno
import traceback
from pathlib import Path

import torch

from launcher.distributed import is_peer_loss
from launcher.errors import DivergedError, SpecError, StorageError
from launcher.outcome import Failure, Kind

_NO_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_PACKAGE = Path(__file__).parent


def describe(error: BaseException, *, rank: int) -> Failure:
    """The failure that an exception stands for."""
    kind = _kind(error)
    told = str(error)
    plain = isinstance(error, SpecError | StorageError | DivergedError)
    return Failure(
        kind=kind,
        message=told if plain else f"{type(error).__name__}: {told}",
        rank=rank,
        traceback="".join(traceback.format_exception(error)),
    )


def _kind(error: BaseException) -> Kind:
    match error:
        case SpecError():
            return "spec"
        case StorageError():
            return "storage"
        case DivergedError():
            return "diverged"
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
    """Whether the innermost frame is the launcher's own."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)
