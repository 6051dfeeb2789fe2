"""Examines a Ray cluster from the inside: every host is asked, one thing after the other.

What a host measures is in `host`; what that means, in `cluster_verdicts`, `network_verdicts`.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launcher import planner
from launcher.doctor import cluster_verdicts as verdicts
from launcher.doctor import network_verdicts
from launcher.doctor.host import Examiner, Facts
from launcher.doctor.verdicts import Check
from launcher.engines.ray import cluster as ray_cluster
from launcher.engines.ray.everywhere import Everywhere, Member, connected, lost
from launcher.engines.ray.placement import Need, Node
from launcher.errors import LauncherError, PreflightError
from launcher.plan import RunPlan
from launcher.resources import Resources, together

_ANSWER_S = 30.0
_SHORT_S = 15.0
_ALL_S = 55.0
"""What hangs is given up by then; a healthy cluster takes a fifth of it."""
_ALL_PAIRS = 8
"""Up to so many hosts each one tries every other; of more, the next one in a ring."""


@dataclass(frozen=True)
class Visit:
    """What a person wants to know, and what can be seen from their machine only."""

    versions: Mapping[str, str]
    """Of the person's machine; empty where something is not installed."""
    open_to_all: bool
    """Whether the cluster took a request without a token."""
    storage: str
    """Empty: none was named."""
    plan: Callable[[Resources], RunPlan] | None
    """The plan of the spec for what the cluster has; None without a spec."""


def examine_cluster(visit: Visit) -> Iterator[Check]:
    """Every check, each as soon as it is known."""
    ends_at = time.monotonic() + _ALL_S
    with connected() as members, Everywhere(Examiner, members, ends_at=ends_at) as hosts:
        head, lost_before = members[0].address, lost()
        answers = hosts.ask("describe", _same(hosts), timeout_s=_ANSWER_S)
        facts = {host: Facts(**said) for host, said in answers.said.items()}
        yield from verdicts.hosts(list(facts), answers.silent, head=head, lost=lost_before)
        yield verdicts.token(open_to_all=visit.open_to_all)
        hosts.leave(answers.silent)
        if not facts:
            return
        members = [member for member in members if member.address in facts]
        yield from _versions(visit, facts)
        yield from verdicts.hardware(facts)
        yield from _room(visit, hosts, members, facts)
        network = list(_network(hosts, facts))
        yield from network
        yield from _storage(hosts, visit.storage)
        if any(check.status == "FAIL" for check in network):
            yield network_verdicts.not_added("gloo")
            return
        yield from _addition(hosts, "gloo", "cpu")
        yield from _addition_on_gpus(members, ends_at=ends_at)


def _versions(visit: Visit, facts: Mapping[str, Facts]) -> Iterator[Check]:
    for name, own in visit.versions.items():
        by_host = {host: fact.versions.get(name, "") for host, fact in facts.items()}
        yield verdicts.version(name, by_host, laptop=own)


def _room(
    visit: Visit, hosts: Everywhere, members: list[Member], facts: Mapping[str, Facts]
) -> Iterator[Check]:
    """Whether the ranks of the spec fit, and their secrets are there."""
    free = [node for node in ray_cluster.free_nodes([]) if node.address in facts]
    if visit.plan is None:
        yield verdicts.free(free)
        return
    try:
        plan = visit.plan(_resources(members, facts))
    except LauncherError as error:
        yield verdicts.refused(str(error))
        return
    idle = [Node(m.id, m.address, m.cpus, m.gpus) for m in members]
    need = Need(cpus=plan.ranks.threads_per_rank, gpus=int(plan.ranks.device == "cuda"))
    yield verdicts.room(
        planner.world_sizes(plan), need, free=free, idle=idle, batch=plan.train.global_batch_size
    )
    if plan.secrets:
        answers = hosts.ask("lacking_secrets", _same(hosts, list(plan.secrets)), timeout_s=_SHORT_S)
        yield from verdicts.secrets(plan.secrets, answers.said, answers.silent)


def _resources(members: list[Member], facts: Mapping[str, Facts]) -> Resources:
    known = [member for member in members if facts[member.address].resources]
    if not known:
        raise PreflightError(
            "no plan can be made without a GPU driver that answers; see gpus above"
        )
    return together(
        [Resources.from_json(facts[member.address].resources) for member in known],
        cores_by_host=tuple(int(member.cpus) for member in known),
        gpus_by_host=[int(member.gpus) for member in known],
    )


def _network(hosts: Everywhere, facts: Mapping[str, Facts]) -> Iterator[Check]:
    """Interfaces, names and connections."""
    yield from network_verdicts.interfaces(facts)
    names = hosts.ask("address_of_name", _same(hosts), timeout_s=_SHORT_S)
    yield from network_verdicts.names(names.said, names.silent, facts)
    ports = hosts.ask("listen", _same(hosts), timeout_s=_SHORT_S)
    peers = {
        host: {peer: ports.said[peer] for peer in others if peer in ports.said}
        for host, others in _peers(hosts.hosts).items()
    }
    reached = hosts.ask("reach", {h: (p,) for h, p in peers.items()}, timeout_s=_SHORT_S)
    yield network_verdicts.network(reached.said, {**ports.silent, **reached.silent})


def _peers(hosts: list[str]) -> dict[str, list[str]]:
    """Whom each host tries to reach."""
    if len(hosts) <= _ALL_PAIRS:
        return {host: [other for other in hosts if other != host] for host in hosts}
    return dict(zip(hosts, ([host] for host in (*hosts[1:], hosts[0])), strict=True))


def _storage(hosts: Everywhere, storage: str) -> Iterator[Check]:
    """The head writes, all others must see it and write beside it, as before each run."""
    if not storage:
        yield verdicts.no_storage()
        return
    marker = uuid.uuid4().hex
    head = hosts.hosts[0]
    start = hosts.ask("start_probe", {head: (storage, marker)}, timeout_s=_SHORT_S)
    said = start.said.get(head, {"url": "", "trouble": start.silent.get(head)})
    if not said["url"]:
        yield verdicts.unwritten(storage, host=head, trouble=said["trouble"])
        return
    answers = hosts.ask("storage_problems", _same(hosts, said["url"], marker), timeout_s=_SHORT_S)
    hosts.ask("close", {head: ()}, timeout_s=_SHORT_S)
    yield from verdicts.storage(
        storage, answers.said, answers.silent, probe=said["url"], free_bytes=said["free_bytes"]
    )


def _addition(hosts: Everywhere, name: str, device: str) -> Iterator[Check]:
    """One rank on each host, and a sum over all of them."""
    first, *_ = hosts.hosts
    ports = hosts.ask("listen", {first: ()}, timeout_s=_SHORT_S)
    meeting = (first, ports.said.get(first))
    ranks = {h: (n, len(hosts.hosts), meeting, device) for n, h in enumerate(hosts.hosts)}
    answers = hosts.ask("add", {} if ports.silent else ranks, timeout_s=_ANSWER_S)
    yield network_verdicts.addition(name, answers.said, {**ports.silent, **answers.silent})


def _addition_on_gpus(members: list[Member], *, ends_at: float) -> Iterator[Check]:
    """A rank needs a GPU of its own, and no run is asked to give one up."""
    with_gpus = [member for member in members if member.gpus >= 1]
    free = {node.address for node in ray_cluster.free_nodes([]) if node.gpus >= 1}
    if not with_gpus:
        return
    if busy := [member.address for member in with_gpus if member.address not in free]:
        yield network_verdicts.gpus_busy(busy)
        return
    with Everywhere(Examiner, with_gpus, ends_at=ends_at, gpus=1) as hosts:
        yield from _addition(hosts, "nccl", "cuda")


def _same(hosts: Everywhere, *arguments: Any) -> dict[str, tuple[Any, ...]]:
    """The same question to each host."""
    return dict.fromkeys(hosts.hosts, arguments)
