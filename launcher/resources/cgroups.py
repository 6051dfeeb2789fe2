"""What the control groups of this process allow: cores, memory, and how often it ran out.

Both versions of cgroups, nested limits included.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath


def read_if_there(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def own_cgroups(*, controller: str) -> list[Path]:
    return cgroups_of(
        controller,
        membership=read_if_there(Path("/proc/self/cgroup")),
        mounts=read_if_there(Path("/proc/self/mountinfo")),
    )


def cgroups_of(controller: str, *, membership: str, mounts: str) -> list[Path]:
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


def affinity_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores(affinity: int, *, cgroups: Sequence[Path]) -> int:
    return max(1, int(min([affinity, *map(_quota_cores, cgroups)])))


def _quota_cores(cgroup: Path) -> float:
    """CPU time per second that the cgroup may use; infinite where it has no quota."""
    v1 = (read_if_there(cgroup / "cpu.cfs_quota_us"), read_if_there(cgroup / "cpu.cfs_period_us"))
    match (read_if_there(cgroup / "cpu.max") or " ".join(v1)).split():
        case [quota, period] if quota.isdigit():  # unlimited is `max` in v2, -1 in v1
            return int(quota) / int(period)
    return float("inf")


def usable_memory_bytes(total: int, *, cgroups: Sequence[Path]) -> int:
    files = [
        cgroup / name for cgroup in cgroups for name in ("memory.max", "memory.limit_in_bytes")
    ]
    limits = [read_if_there(file).strip() for file in files]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def oom_kills(cgroups: Sequence[Path]) -> int:
    """The count of the nearest cgroup that keeps one: that is where a kill is accounted."""
    for cgroup in cgroups:
        text = read_if_there(cgroup / "memory.events") + read_if_there(
            cgroup / "memory.oom_control"
        )
        if found := re.search(r"^oom_kill (\d+)$", text, re.MULTILINE):
            return int(found[1])
    return 0
