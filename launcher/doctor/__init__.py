"""Examines this machine: what it has is measured here, one thing after the other.

What a measurement means, and what to do about it, is decided in `verdicts`.
"""

import os
import platform
import shutil
from collections.abc import Iterator

from launcher.doctor import verdicts
from launcher.doctor.probing import free_bytes, write_trouble
from launcher.doctor.trial import try_torch
from launcher.doctor.verdicts import Check
from launcher.doctor.versions import installed
from launcher.errors import PreflightError
from launcher.resources import inherited_environment, this_host
from launcher.resources.cgroups import affinity_cores
from launcher.resources.gpus import Gpu

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
    yield verdicts.storage(storage, trouble=write_trouble(storage), free_bytes=free_bytes(storage))
    trial = try_torch(timeout_s=_TORCH_TIMEOUT_S)
    yield verdicts.torch(installed("torch"), trial)
    if trial.version and gpus:
        yield verdicts.cuda(len(gpus), trial)
    if trial.version:
        yield verdicts.gloo(trial)
    yield verdicts.wandb(installed("wandb"), key=key)
    yield verdicts.compiler(_compiler())


def _compiler() -> str:
    """Path of the compiler that torch.compile would call for CPU code, empty without one."""
    names = (inherited_environment().get("CXX"), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), "")
