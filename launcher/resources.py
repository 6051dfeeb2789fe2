"""What this host has: cores, memory, GPUs and credentials, within the limits set on this process.

How much of it a run uses is decided in `planner`; torch is never imported and CUDA never started.
"""

import configparser
import netrc
import os
import platform
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import psutil
import pynvml

from launcher.errors import PreflightError

_WANDB_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""W&B's own service since 0.31, and its older name, whose keys it still takes."""


@dataclass(frozen=True)
class Gpu:
    """One GPU that CUDA would show to this process."""

    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]

    @property
    def native_bf16(self) -> bool:
        """Whether bfloat16 has its own arithmetic units (Ampere and later)."""
        return self.compute_capability >= (8, 0)


@dataclass(frozen=True)
class Resources:
    """What one host offers to a run."""

    host: str
    cores: int
    """Cores that affinity and every enclosing cgroup quota allow, rounded down, at least 1."""
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


def this_host() -> Resources:
    """Measure the machine this process runs on."""
    memory_bytes = _memory_bytes(
        psutil.virtual_memory().total, cgroups=_own_cgroups(controller="memory")
    )
    cpu_name, flags = _cpu(_read(Path("/proc/cpuinfo")))
    return Resources(
        host=socket.gethostname(),
        cores=_cores(_affinity_cores(), cgroups=_own_cgroups(controller="cpu")),
        memory_bytes=memory_bytes,
        shm_bytes=_shm_bytes(Path("/dev/shm"), memory_bytes=memory_bytes),
        gpus=_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), host_memory_bytes=memory_bytes),
        cpu_name=cpu_name or platform.processor() or platform.machine(),
        cpu_native_bf16=not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"}),
        cpu_native_fp16=not flags.isdisjoint({"avx512_fp16", "amx_fp16"}),
        wandb_key=_wandb_key(os.environ, home=Path.home(), cwd=Path()),
    )


def oom_kill_count() -> int:
    """Processes the kernel has killed for memory in this process's cgroup; 0 where it is unknown.

    A count that grew tells an out-of-memory kill from any other SIGKILL.
    """
    return _oom_kills(_own_cgroups(controller="memory"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _own_cgroups(*, controller: str) -> list[Path]:
    return _cgroups(
        controller,
        membership=_read(Path("/proc/self/cgroup")),
        mounts=_read(Path("/proc/self/mountinfo")),
    )


def _cgroups(controller: str, *, membership: str, mounts: str) -> list[Path]:
    """Folders of the cgroups around this process, its own first, then its parents; v2 and v1.

    `mounts` says which cgroup is mounted where: in a container that is often the own one.
    Formats: man 7 cgroups (/proc/[pid]/cgroup), man 5 proc_pid_mountinfo.
    """
    paths: dict[str, str] = {}
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(","), path))
    folders: list[Path] = []
    for line in mounts.splitlines():
        place, _, filesystem = line.partition(" - ")
        kind, *_, options = filesystem.split()
        hierarchy = {"cgroup2": "", "cgroup": controller}.get(kind)
        if hierarchy not in paths or (hierarchy and hierarchy not in options.split(",")):
            continue
        mounted, mount_point = place.split()[3:5]
        own = PurePosixPath(paths[hierarchy])
        below = own.relative_to(mounted) if own.is_relative_to(mounted) else PurePosixPath()
        # A path above the cgroup namespace reads `/../name`, which is not below the mount.
        below = PurePosixPath() if ".." in below.parts else below
        folders += [Path(mount_point, part) for part in (below, *below.parents)]
    return folders


def _affinity_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cores(affinity: int, *, cgroups: Sequence[Path]) -> int:
    return max(1, int(min([affinity, *map(_quota_cores, cgroups)])))


def _quota_cores(cgroup: Path) -> float:
    """CPU time per second that the cgroup may use; infinite where it has no quota."""
    v1 = (_read(cgroup / "cpu.cfs_quota_us"), _read(cgroup / "cpu.cfs_period_us"))
    match (_read(cgroup / "cpu.max") or " ".join(v1)).split():
        case [quota, period] if quota.isdigit():  # unlimited is `max` in v2, -1 in v1
            return int(quota) / int(period)
    return float("inf")


def _memory_bytes(total: int, *, cgroups: Sequence[Path]) -> int:
    files = [
        cgroup / name for cgroup in cgroups for name in ("memory.max", "memory.limit_in_bytes")
    ]
    limits = [_read(file).strip() for file in files]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def _shm_bytes(folder: Path, *, memory_bytes: int) -> int:
    """Where there is no such folder (macOS), only memory bounds what processes can share."""
    try:
        return min(memory_bytes, shutil.disk_usage(folder).total)
    except OSError:
        return memory_bytes


def _oom_kills(cgroups: Sequence[Path]) -> int:
    """The count of the nearest cgroup that keeps one: that is where a kill is accounted."""
    for cgroup in cgroups:
        text = _read(cgroup / "memory.events") + _read(cgroup / "memory.oom_control")
        if found := re.search(r"^oom_kill (\d+)$", text, re.MULTILINE):
            return int(found[1])
    return 0


def _cpu(cpuinfo: str) -> tuple[str, frozenset[str]]:
    """Name ("" on Arm, which has none) and instruction set flags of the first core."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name", ""), frozenset(flags.split())


def _gpus(visible: str | None, *, host_memory_bytes: int) -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show, asked from the driver so that CUDA is not started."""
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return ()
    except pynvml.NVMLError as error:
        raise PreflightError(_driver_trouble(error)) from error
    try:
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        return tuple(
            Gpu(
                name=pynvml.nvmlDeviceGetName(handles[index]),
                memory_bytes=_gpu_memory_bytes(handles[index], host_memory_bytes),
                compute_capability=pynvml.nvmlDeviceGetCudaComputeCapability(handles[index]),
            )
            for index in _visible(visible, uuids=uuids)
        )
    except pynvml.NVMLError as error:
        raise PreflightError(_driver_trouble(error)) from error
    finally:
        pynvml.nvmlShutdown()


def _driver_trouble(error: Exception) -> str:
    return (
        f"the NVIDIA driver answers {str(error)!r}; see what `nvidia-smi` says and mend that, "
        "or set CUDA_VISIBLE_DEVICES=-1 to train without GPUs"
    )


def _gpu_memory_bytes(handle: object, host_memory_bytes: int) -> int:
    """Total memory; a GPU without its own (Grace Blackwell desktop, Jetson) shares the host's."""
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError_NotSupported:
        return host_memory_bytes


def _visible(visible: str | None, *, uuids: Sequence[str]) -> list[int]:
    """Driver indices that CUDA_VISIBLE_DEVICES selects, by index or by the start of a UUID.

    As CUDA does, the list ends before the first entry that names no GPU, and an entry that comes
    twice makes it empty (torch.cuda._parse_visible_devices).
    """
    if visible is None:
        return list(range(len(uuids)))
    if visible.startswith("MIG-"):
        raise PreflightError(
            f"CUDA_VISIBLE_DEVICES is {visible!r}: MIG slices are not supported; name whole GPUs"
        )
    by_uuid = visible.startswith("GPU-")
    chosen: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        if by_uuid and not entry.startswith("GPU-"):
            break
        found = [
            index
            for index, uuid in enumerate(uuids)
            if (uuid.startswith(entry) if by_uuid else str(index) == entry)
        ]
        if len(found) != 1:
            break
        if found[0] in chosen:
            return []
        chosen += found
    return chosen


def _wandb_key(env: Mapping[str, str], *, home: Path, cwd: Path) -> bool:
    """Look where wandb 0.31 looks (sdk/lib/wbauth), without importing it."""
    settings = _wandb_settings(env, home=home, cwd=cwd)
    if (env.get("WANDB_MODE") or settings.get("mode")) in ("offline", "disabled", "dryrun"):
        return False
    if env.get("WANDB_API_KEY") or env.get("WANDB_IDENTITY_TOKEN_FILE") or settings.get("api_key"):
        return True
    url = env.get("WANDB_BASE_URL") or settings.get("base_url") or f"https://{_WANDB_HOSTS[0]}"
    machine = urlsplit(url).netloc
    accepted = _WANDB_HOSTS if machine == _WANDB_HOSTS[0] else (machine,)
    keys = _netrc_keys(env, home=home)
    return any(keys.get(name) for name in accepted)


def _netrc_keys(env: Mapping[str, str], *, home: Path) -> dict[str, str]:
    files = [Path(env["NETRC"])] if env.get("NETRC") else [home / ".netrc", home / "_netrc"]
    for file in files:
        try:
            hosts = netrc.netrc(file.expanduser()).hosts
        except FileNotFoundError:
            continue
        except (OSError, netrc.NetrcParseError):
            break
        return {machine: password for machine, (_, _, password) in hosts.items()}
    return {}


def _wandb_settings(env: Mapping[str, str], *, home: Path, cwd: Path) -> dict[str, str]:
    """What `wandb login --host` and `wandb offline` have written; the workspace's file wins."""
    shared = Path(env.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb").expanduser()
    workspace = Path(env.get("WANDB_DIR") or cwd).expanduser() / "wandb"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([shared / "settings", workspace / "settings"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}


def inherited_environment(**extra: str) -> dict[str, str]:
    """This process's environment with some variables set, for a process that it starts."""
    return {**os.environ, **extra}


def environment_names() -> list[str]:
    """Names, never values, of the environment variables that are set."""
    return sorted(os.environ)
