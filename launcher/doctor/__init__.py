"""Examines this machine: what it has is measured here, one thing after the other.

What a measurement means, and what to do about it, is decided in `verdicts`.
"""

import importlib.metadata
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor import verdicts
from launcher.doctor.trial import try_torch
from launcher.doctor.verdicts import Check
from launcher.errors import PreflightError
from launcher.resources import inherited_environment, this_host
from launcher.resources.cgroups import affinity_cores
from launcher.resources.gpus import Gpu
from launcher.rundir import RunDir

__all__ = ["Check", "examine"]

_TORCH_TIMEOUT_S = 180.0
"""Importing torch from a cold network disk takes a minute."""


def examine(storage: str) -> Iterator[Check]:
    """Every check, each as soon as it is known; `storage` is an absolute folder or a URL."""
    yield verdicts.python(platform.python_version_tuple())
    gpus: tuple[Gpu, ...] = ()
    key = False
    try:
        host = this_host()
    except PreflightError as error:
        yield verdicts.driver(str(error))
    else:
        gpus, key = host.gpus, host.wandb_key
        yield verdicts.cores(
            host.cores, affinity=affinity_cores(), machine=os.cpu_count() or host.cores
        )
        yield verdicts.memory(host.memory_bytes)
        yield verdicts.shared_memory(host.shm_bytes)
        yield verdicts.gpus(gpus)
    yield verdicts.storage(storage, trouble=_write_trouble(storage), free_bytes=_free(storage))
    trial = try_torch(timeout_s=_TORCH_TIMEOUT_S)
    yield verdicts.torch(_version("torch"), trial)
    if trial.version and gpus:
        yield verdicts.cuda(len(gpus), trial)
    if trial.version:
        yield verdicts.gloo(trial)
    yield verdicts.wandb(_version("wandb"), key=key)
    yield verdicts.compiler(_compiler())


def _version(package: str) -> str:
    """Empty: it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _compiler() -> str:
    """Path of the compiler that torch.compile would call for CPU code, empty without one."""
    names = (inherited_environment().get("CXX"), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), "")


def _free(storage: str) -> float:
    """Bytes free for a local storage; of any other, infinity."""
    return float("inf") if "://" in storage else shutil.disk_usage(_nearest(storage)).free


def _write_trouble(storage: str) -> str:
    """Why nothing can be written to the storage, empty when it can; leaves nothing behind."""
    try:
        if "://" in storage:
            run_dir, name = RunDir(storage), f".doctor-{uuid.uuid4().hex}"
            run_dir.write(name, b"written by launcher doctor")
            run_dir.remove(name)
        else:
            with tempfile.TemporaryFile(dir=_nearest(storage)) as file:
                file.write(b"written by launcher doctor")
    except Exception as error:  # noqa: BLE001  # every fsspec backend raises errors of its own
        return f"{type(error).__name__}: {error}"
    return ""


def _nearest(storage: str) -> Path:
    """The storage, or the folder around it that exists; a run would make the rest."""
    return next(path for path in (Path(storage), *Path(storage).parents) if path.exists())
