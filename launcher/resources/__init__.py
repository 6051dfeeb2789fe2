"""What this host has: cores, memory, GPUs and credentials, within the limits set on this process.

How much of it a run uses is decided in `planner`; torch is never imported and CUDA never started.
"""

import importlib.util
import json
import os
import platform
import shutil
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from launcher.errors import PreflightError
from launcher.resources.cgroups import (
    affinity_cores,
    oom_kills,
    own_cgroups,
    read_if_there,
    usable_cores,
    usable_memory_bytes,
)
from launcher.resources.credentials import has_wandb_key
from launcher.resources.gpus import Gpu, has_driver
from launcher.resources.secrets import find_secrets

__all__ = [
    "Gpu",
    "Resources",
    "environment_names",
    "inherited_environment",
    "is_installed",
    "oom_kill_count",
    "lacking_secrets",
    "own_python_path",
    "secrets_here",
    "this_host",
    "together",
]


@dataclass(frozen=True)
class Resources:
    """What one host offers to a run."""

    host: str
    cores: int
    """Cores that affinity and every enclosing cgroup quota allow, rounded down, at least 1."""
    cores_by_host: tuple[int, ...]
    """The same for each host, where they are several."""
    memory_bytes: int
    """Memory of the host, or of the tightest enclosing cgroup."""
    shm_bytes: int
    """Size of /dev/shm, through which loader processes hand over batches."""
    gpus: tuple[Gpu, ...]
    """In the driver's order, which is CUDA's where all GPUs are of one model."""
    cpu_name: str
    cpu_native_bf16: bool
    cpu_native_fp16: bool
    wandb_key: bool
    """Whether W&B would find credentials here and is not switched offline."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        gpus = tuple(
            Gpu(**{**gpu, "compute_capability": tuple(gpu["compute_capability"])})
            for gpu in values.pop("gpus")
        )
        cores_by_host = tuple(values.pop("cores_by_host"))
        return cls(**values, gpus=gpus, cores_by_host=cores_by_host)


def together(
    hosts: Sequence[Resources], *, cores_by_host: tuple[int, ...], gpus_by_host: Sequence[int]
) -> Resources:
    """What several hosts have together, of which so much may be used; memory is the least."""
    first = hosts[0]
    return Resources(
        host=f"{len(hosts)} hosts" if len(hosts) > 1 else first.host,
        cores=max(1, sum(cores_by_host)),
        cores_by_host=cores_by_host,
        memory_bytes=min(host.memory_bytes for host in hosts),
        shm_bytes=min(host.shm_bytes for host in hosts),
        gpus=tuple(
            gpu for host, n in zip(hosts, gpus_by_host, strict=True) for gpu in host.gpus[:n]
        ),
        cpu_name=first.cpu_name,
        cpu_native_bf16=all(host.cpu_native_bf16 for host in hosts),
        cpu_native_fp16=all(host.cpu_native_fp16 for host in hosts),
        wandb_key=has_wandb_key(os.environ, home=Path.home(), cwd=Path()),
    )


def this_host() -> Resources:
    """Measure the machine this process runs on."""
    installed_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory_bytes = usable_memory_bytes(installed_bytes, cgroups=own_cgroups(controller="memory"))
    cpu_name, flags = _cpu(read_if_there(Path("/proc/cpuinfo")))
    cores = usable_cores(affinity_cores(), cgroups=own_cgroups(controller="cpu"))
    return Resources(
        host=socket.gethostname(),
        cores=cores,
        cores_by_host=(cores,),
        memory_bytes=memory_bytes,
        shm_bytes=_shm_bytes(Path("/dev/shm"), memory_bytes=memory_bytes),
        gpus=_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), host_memory_bytes=memory_bytes),
        cpu_name=cpu_name or platform.processor() or platform.machine(),
        cpu_native_bf16=not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"}),
        cpu_native_fp16=not flags.isdisjoint({"avx512_fp16", "amx_fp16"}),
        wandb_key=has_wandb_key(os.environ, home=Path.home(), cwd=Path()),
    )


def oom_kill_count() -> int:
    """Processes the kernel has killed for memory in this process's cgroup; 0 where it is unknown.

    A count that grew tells an out-of-memory kill from any other SIGKILL.
    """
    return oom_kills(own_cgroups(controller="memory"))


def _shm_bytes(folder: Path, *, memory_bytes: int) -> int:
    """Where there is no such folder (macOS), only memory bounds what processes can share."""
    try:
        return min(memory_bytes, shutil.disk_usage(folder).total)
    except OSError:
        return memory_bytes


def _cpu(cpuinfo: str) -> tuple[str, frozenset[str]]:
    """Name ("" on Arm, which has none) and instruction set flags of the first core."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name", ""), frozenset(flags.split())


def inherited_environment(**extra: str) -> dict[str, str]:
    """This process's environment with some variables set, for a process that it starts."""
    return {**os.environ, **extra}


def secrets_here(names: Sequence[str]) -> dict[str, str]:
    """The secrets of these names; PreflightError that names those which this host lacks."""
    found, missing = find_secrets(names, home=Path.home())
    if missing:
        raise PreflightError(lacking_secrets(missing, host=socket.gethostname()))
    return found


def lacking_secrets(names: Sequence[str], *, host: str) -> str:
    """What a person must do about secrets that a host has not."""
    return (
        f"secrets: {', '.join(names)} of the spec is not on host {host}; set it in the environment "
        "there, or write it to ~/.launcher/secrets/NAME"
    )


def is_installed(package: str) -> bool:
    """Whether this Python has it; nothing is imported.

    A folder of that name, such as the `wandb` which every W&B run leaves behind, is found as a
    package without an origin.
    """
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def own_python_path() -> str:
    """PYTHONPATH for a child that must find this very launcher first, wherever it lies."""
    own = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH", "")]))


def environment_names() -> list[str]:
    """Names, never values, of the environment variables that are set."""
    return sorted(os.environ)


def _gpus(visible: str | None, *, host_memory_bytes: int) -> tuple[Gpu, ...]:
    if not has_driver():
        return ()
    from launcher.resources.nvml import visible_gpus

    return visible_gpus(visible, host_memory_bytes=host_memory_bytes)
