"""What the hosts of a cluster say of themselves means for training, and what to do about it.

Pure: the asking is done in `cluster`; what lies between hosts is judged in `network_verdicts`.
Hosts go by their Ray addresses, and the head is the first.
"""

from collections.abc import Iterator, Mapping, Sequence

from launcher.doctor import verdicts
from launcher.doctor.by_host import JOIN_ANEW, listed, merged, merged_checks, silent_hosts
from launcher.doctor.host import Facts
from launcher.doctor.verdicts import Check
from launcher.engines.ray.placement import Need, Node, largest
from launcher.engines.ray.placement import room as room_for
from launcher.resources import Resources


def hosts(
    answered: Sequence[str], silent: Mapping[str, str], *, head: str, lost: Sequence[str]
) -> Iterator[Check]:
    """Which are there, which Ray counts on in vain, and which it has given up before."""
    if answered:
        finding = f"{len(answered)} hosts answer" if len(answered) > 1 else "1 host answers"
        finding += f": {listed([f'{host} (head)' if host == head else host for host in answered])}"
        finding += f"; no longer in the cluster: {listed(lost)}" if lost else ""
        yield Check("hosts", "ok", finding)
    yield from silent_hosts("hosts", silent, fix=f"look at that host; {JOIN_ANEW}")


def token(*, open_to_all: bool) -> Check:
    if not open_to_all:
        return Check("token", "ok", "the cluster takes no job without one")
    finding = "the cluster takes jobs from whoever reaches it, without a token"
    fix = "start it with `launcher cluster up`, or set RAY_AUTH_MODE=token on every host"
    return Check("token", "warn", finding, fix)


def version(name: str, by_host: Mapping[str, str], *, laptop: str) -> Check:
    """Of `python`, `ray`, `torch` or `launcher`; empty: it is not installed there."""
    finding = merged({host: found or "none" for host, found in by_host.items()})
    wanted = next(filter(None, by_host.values()), laptop)
    fix = f"install {name} {_public(wanted)} on every host"
    if "" in by_host.values() or len({_matching(name, v) for v in by_host.values()}) > 1:
        return Check(name, "FAIL", finding, fix)
    if len(set(map(_build, by_host.values()))) > 1:
        return Check(name, "warn", finding, f"{fix}, the same build of it")
    if laptop and _matching(name, wanted) != _matching(name, laptop):
        finding += f"; your machine: {laptop}"
        fix = f"install {name} {_public(wanted)} on your machine, or {_public(laptop)} on all hosts"
        return Check(name, "warn", finding, fix)
    return Check(name, "ok", finding)


def _matching(name: str, version: str) -> str:
    """The part of a version that must be equal: of Python and Ray, `3.11` of 3.11.2."""
    public = _public(version)
    return ".".join(public.split(".")[:2]) if name in ("python", "ray") else public


def _public(version: str) -> str:
    """`2.13.0` of 2.13.0+cpu."""
    return version.partition("+")[0]


def _build(version: str) -> str:
    """`cpu` of 2.13.0+cpu."""
    return version.partition("+")[2]


def hardware(facts: Mapping[str, Facts]) -> Iterator[Check]:
    """Memory, /dev/shm and GPUs, as `doctor` judges them on one machine."""
    broken = {h: f.driver_trouble for h, f in facts.items() if f.driver_trouble}
    yield from merged_checks({h: verdicts.driver(trouble) for h, trouble in broken.items()})
    known = {h: Resources.from_json(f.resources) for h, f in facts.items() if f.resources}
    yield from merged_checks({h: verdicts.memory(r.memory_bytes) for h, r in known.items()})
    yield from merged_checks({h: verdicts.shared_memory(r.shm_bytes) for h, r in known.items()})
    yield from merged_checks({h: verdicts.gpus(r.gpus) for h, r in known.items()})


def free(nodes: Sequence[Node]) -> Check:
    return Check("room", "ok", f"free on {_has(nodes)}")


def room(
    sizes: Sequence[int], need: Need, *, free: Sequence[Node], idle: Sequence[Node], batch: int
) -> Check:
    """Whether ranks fit: what is `free` now, and what would be if no other run were there."""
    each = _amount(need.cpus, need.gpus)
    if size := largest(sizes, free, need):
        asked = f", of the {sizes[0]} to {sizes[-1]} that it may have" if len(sizes) > 1 else ""
        finding = f"{_ranks(size)} of {each} {'fits' if size == 1 else 'fit'}{asked}"
        return Check("room", "ok", f"{finding}; free on {_has(free)}")
    missing = f"no room for {_ranks(min(sizes))} of {each}"
    if largest(sizes, idle, need):
        fix = "wait for other runs to end, as `launcher submit` does by itself"
        return Check("room", "warn", f"{missing} now; free on {_has(free)}", fix)
    finding = f"{missing}, even on an idle cluster; there is on {_has(idle)}"
    return Check(
        "room", "FAIL", finding, f"let more hosts join, or {_smaller(sizes, need, idle, batch)}"
    )


def _smaller(sizes: Sequence[int], need: Need, idle: Sequence[Node], batch: int) -> str:
    """What could be asked for instead: fewer ranks if they divide the batch, else smaller ones."""
    if ranks := max((n for n in range(1, room_for(idle, need) + 1) if batch % n == 0), default=0):
        return f"set resources.world_size to {ranks}"
    fewer = range(need.cpus - 1, 0, -1)
    if cpus := next((n for n in fewer if room_for(idle, Need(n, need.gpus)) >= min(sizes)), 0):
        return f"set resources.cpus_per_rank to {cpus}"
    return "set fewer resources.cpus_per_rank and a smaller resources.world_size"


def refused(error: str) -> Check:
    """Of a spec that is right by itself and cannot be trained on this cluster."""
    finding, _, fix = error.splitlines()[0].partition("; ")
    return Check("room", "FAIL", finding, fix or "change the spec")


def secrets(
    names: Sequence[str], lacking: Mapping[str, Sequence[str]], silent: Mapping[str, str]
) -> Iterator[Check]:
    missing = {host: ", ".join(lacks) for host, lacks in lacking.items() if lacks}
    if missing:
        fix = (
            "set it in the environment in which Ray starts there, or write it to "
            "~/.launcher/secrets/NAME"
        )
        yield Check("secrets", "FAIL", f"missing on {merged(missing)}", fix)
    elif not silent:
        yield Check("secrets", "ok", f"every host has {listed(names)}")
    yield from silent_hosts("secrets", silent)


def no_storage() -> Check:
    fix = "name the folder that all hosts share: --storage /SHARED/runs"
    return Check("storage", "warn", "none is named, and runs need one", fix)


def unwritten(storage: str, *, host: str, trouble: str) -> Check:
    """By the head, which is the first to write to a run."""
    reason = _without_advice(trouble).rpartition(": ")[2]
    return verdicts.storage(f"{storage} on {host}", trouble=reason, free_bytes=0)


def storage(
    place: str,
    problems: Mapping[str, Sequence[str]],
    silent: Mapping[str, str],
    *,
    probe: str,
    free_bytes: float,
) -> Iterator[Check]:
    """`probe` is the path of what the head wrote, which hosts name in their problems."""
    bad = {
        host: _without_advice(found[0]).replace(f"host {host}", "", 1).strip(": ")
        for host, found in problems.items()
        if found
    }
    if bad:
        fix = f"let all hosts share {place} and write there, or name another one with --storage"
        if any("credentials" in found for found in bad.values()):
            fix = (
                "give them where Ray starts there: in the environment of `launcher cluster up` or "
                "`join`, or where the store's own client looks, such as ~/.aws"
            )
        yield Check("storage", "FAIL", merged(bad).replace(probe, place), fix)
    yield from silent_hosts("storage", silent, fix=f"look at the file system of {place} there")
    if not bad and not silent:
        shared = f"{place}, shared by {len(problems)} hosts," if len(problems) > 1 else place
        yield verdicts.storage(shared, trouble="", free_bytes=free_bytes)


def _without_advice(text: str) -> str:
    """An error without its own advice, which is for a run."""
    return text.partition("; ")[0]


def _has(nodes: Sequence[Node]) -> str:
    return merged({node.address: _amount(node.cpus, node.gpus) for node in nodes}) or "no host"


def _amount(cpus: float, gpus: float) -> str:
    """`1 CPU and 2 GPUs`."""
    words = [f"{cpus:g} CPU{'' if cpus == 1 else 's'}"]
    words += [f"{gpus:g} GPU{'' if gpus == 1 else 's'}"] if gpus else []
    return " and ".join(words)


def _ranks(count: int) -> str:
    return f"{count} rank{'' if count == 1 else 's'}"
