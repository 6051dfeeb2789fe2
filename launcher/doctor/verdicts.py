"""What each measurement of a machine means for training, and what to do about a bad one.

Pure: the measuring is done in the package's `__init__` and in `trial`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.doctor.trial import Trial
from launcher.resources.gpus import Gpu

GIB = 1 << 30
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "warn", "FAIL"]
    """`FAIL`: nothing trains here until it is mended."""
    finding: str
    fix: str = ""


def python(version: Sequence[str]) -> Check:
    shown = ".".join(version)
    if tuple(map(int, version[:2])) >= _OLDEST_PYTHON:
        return Check("python", "ok", shown)
    oldest = ".".join(map(str, _OLDEST_PYTHON))
    return Check("python", "FAIL", f"{shown} is older than {oldest}", f"install Python {oldest}")


def cores(usable: int, *, affinity: int, machine: int) -> Check:
    finding = f"{usable} of {machine}"
    if affinity < machine:
        finding += f"; affinity allows {affinity}"
    if usable < affinity:
        finding += f"; a cgroup quota allows {usable}"
    return Check("cores", "ok", finding)


def memory(usable_bytes: int) -> Check:
    finding = f"{usable_bytes / GIB:.1f} GiB"
    if usable_bytes >= 2 * GIB:
        return Check("memory", "ok", finding)
    return Check("memory", "warn", finding, "each rank takes 0.5 GiB before its model; add memory")


def shared_memory(size_bytes: int) -> Check:
    finding = f"/dev/shm has {size_bytes / GIB:.2f} GiB"
    if size_bytes >= GIB:
        return Check("shared memory", "ok", finding)
    fix = "loader processes need it: `docker run --shm-size=8g`, or data.loader.num_workers: 0"
    return Check("shared memory", "warn", finding, fix)


def gpus(found: Sequence[Gpu]) -> Check:
    if not found:
        return Check("gpus", "ok", "none; runs use the CPU")
    kinds = dict.fromkeys(gpu.name for gpu in found)
    counts = [
        f"{sum(gpu.name == kind for gpu in found)} x {kind}, "
        f"{next(gpu.memory_bytes for gpu in found if gpu.name == kind) / GIB:.0f} GiB"
        for kind in kinds
    ]
    if len(kinds) == 1:
        return Check("gpus", "ok", counts[0])
    fix = "all ranks wait for the slowest; choose one kind with CUDA_VISIBLE_DEVICES"
    return Check("gpus", "warn", "; ".join(counts), fix)


def driver(trouble: str) -> Check:
    """Of a driver that does not answer; its error ends with what to do."""
    finding, _, fix = trouble.partition("; ")
    return Check("gpus", "FAIL", finding, fix)


def storage(place: str, *, trouble: str, free_bytes: float) -> Check:
    if trouble:
        fix = "make it writable, install what its URL needs, or choose another with --storage"
        return Check("storage", "FAIL", f"{place} cannot be written: {trouble}", fix)
    if free_bytes == float("inf"):
        return Check("storage", "ok", f"{place} is writable")
    finding = f"{place} is writable, {free_bytes / GIB:.1f} GiB free"
    if free_bytes >= 5 * GIB:
        return Check("storage", "ok", finding)
    status: Literal["warn", "FAIL"] = "warn" if free_bytes >= GIB / 4 else "FAIL"
    return Check("storage", status, finding, "make room, or choose another with --storage")


def torch(installed: str, trial: Trial) -> Check:
    if not installed:
        return Check("torch", "FAIL", "is not installed", "pip install torch")
    if trial.version:
        build = f"CUDA {trial.cuda}" if trial.cuda else "CPU"
        finding = f"{trial.version}, built for {build}, imported in {trial.import_s:.1f} s"
        return Check("torch", "ok", finding)
    fix = f"pip install --force-reinstall torch=={installed.partition('+')[0]}"
    return Check("torch", "FAIL", f"{installed} cannot be imported: {trial.trouble}", fix)


def cuda(gpu_count: int, trial: Trial) -> Check:
    if trial.cuda_devices == gpu_count:
        return Check("cuda", "ok", f"torch sees {gpu_count} of {gpu_count} GPUs")
    finding = f"torch sees {trial.cuda_devices} of {gpu_count} GPUs"
    if not trial.cuda:
        fix = "install a torch that is built for CUDA: https://pytorch.org/get-started"
        return Check("cuda", "FAIL", finding, fix)
    fix = f"update the NVIDIA driver to one for CUDA {trial.cuda}, or install a torch for yours"
    return Check("cuda", "FAIL", finding, fix)


def gloo(trial: Trial) -> Check:
    if trial.total == 3.0:
        return Check("gloo", "ok", "two ranks added their numbers")
    finding = trial.trouble or f"two ranks added 1 and 2 to {trial.total:g}"
    fix = "let processes of this host connect to each other; GLOO_SOCKET_IFNAME=lo picks loopback"
    return Check("gloo", "FAIL", finding, fix)


def wandb(installed: str, *, key: bool) -> Check:
    if not installed:
        fix = "for tracking.wandb: pip install 'torch-launcher[wandb]'"
        return Check("wandb", "ok", "is not installed", fix)
    if not key:
        fix = "`wandb login`, or set WANDB_API_KEY"
        return Check("wandb", "warn", f"{installed} without an API key records offline", fix)
    return Check("wandb", "ok", f"{installed}, with an API key")


def compiler(path: str) -> Check:
    if path:
        return Check("compiler", "ok", path)
    fix = "for train.compile: install g++, or set CXX"
    return Check("compiler", "warn", "there is no C++ compiler", fix)
