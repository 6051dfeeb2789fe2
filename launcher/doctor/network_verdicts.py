"""What was found between the hosts of a cluster means for training, and what to do about it.

Pure: the asking is done in `cluster`. Hosts go by their Ray addresses.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from launcher.doctor.by_host import JOIN_ANEW, listed, merged, merged_checks, silent_hosts
from launcher.doctor.host import Facts
from launcher.doctor.verdicts import Check

_SET_INTERFACE = (
    "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME there to the interface that reaches the other "
    "hosts, and start Ray there anew"
)
_OPEN_PORTS = (
    "let the hosts of the cluster connect to each other on every TCP port: firewall, security "
    "group, routes"
)


def interfaces(facts: Mapping[str, Facts]) -> Iterator[Check]:
    """Through which one ranks of a host talk with the others."""
    yield from merged_checks({h: _interface(f, alone=len(facts) == 1) for h, f in facts.items()})


def _interface(fact: Facts, *, alone: bool) -> Check:
    if fact.chosen_interface:
        return Check("interface", "ok", f"{fact.chosen_interface}, by GLOO_SOCKET_IFNAME")
    if not fact.interface:
        finding = "no interface holds the Ray address"
        return Check("interface", "warn", finding, _SET_INTERFACE)
    if fact.interface == "lo" and not alone:
        finding = "the Ray address is that of the loopback, which no other host reaches"
        return Check("interface", "FAIL", finding, JOIN_ANEW)
    return Check("interface", "ok", f"{fact.interface} holds the Ray address")


def names(
    stand_for: Mapping[str, str], silent: Mapping[str, str], facts: Mapping[str, Facts]
) -> Iterator[Check]:
    """What hosts' own names stand for matters only where no interface is known."""
    checks = {}
    for host, address in stand_for.items():
        interface = facts[host].chosen_interface or facts[host].interface
        means = "the Ray address" if address == host else address or "nothing"
        finding = f"the host's own name stands for {means}"
        if address and not ip_address(address).is_loopback:
            checks[host] = Check("names", "ok", finding)
        elif interface:
            checks[host] = Check("names", "ok", f"{finding}; no harm, as ranks use {interface}")
        else:
            checks[host] = Check("names", "FAIL", finding, _SET_INTERFACE)
    yield from merged_checks(checks)
    fix = "its name server does not answer; put the host's name into its /etc/hosts"
    yield from silent_hosts("names", silent, fix=fix, status="warn")


def network(reached: Mapping[str, Mapping[str, float | str]], silent: Mapping[str, str]) -> Check:
    """From each host to others: the seconds that a connection took, or why there is none."""
    tries = {(a, b): got for a, peers in reached.items() for b, got in peers.items()}
    failed = [f"{a} to {b} ({got})" for (a, b), got in tries.items() if isinstance(got, str)]
    failed += [f"{host} ({reason})" for host, reason in silent.items()]
    if failed:
        finding = f"no connection from {listed(failed)}"
        return Check("network", "FAIL", finding, _OPEN_PORTS)
    if not tries:
        return Check("network", "ok", "one host has no other to reach")
    slowest = max(got for got in tries.values() if isinstance(got, float))
    finding = (
        f"{len(reached)} hosts reach each other: {len(tries)} connections, the slowest in "
        f"{_milliseconds(slowest)}"
    )
    return Check("network", "ok", finding)


def addition(name: str, said: Mapping[str, Mapping[str, Any]], silent: Mapping[str, str]) -> Check:
    """Of one rank on each host: 1 from the first, 2 from the second and so on."""
    broken = {h: sums["torch_trouble"] for h, sums in said.items() if "torch_trouble" in sums}
    if broken:
        finding = f"torch cannot be imported: {merged(broken)}"
        return Check(name, "FAIL", finding, "pip install --force-reinstall torch there")
    fix = "see interface and network above; NCCL_DEBUG=INFO in the environment of Ray says more"
    if name == "gloo":
        fix = _SET_INTERFACE
    trouble = {host: sums["trouble"] for host, sums in said.items() if "trouble" in sums}
    trouble |= silent
    if trouble:
        return Check(name, "FAIL", merged(trouble), fix)
    total, expected = {sums["total"] for sums in said.values()}, sum(range(len(said) + 1))
    if total != {expected}:
        return Check(name, "FAIL", f"ranks added to {total}, not to {expected}", fix)
    met, added = (max(sums[part] for sums in said.values()) for part in ("met_s", "added_s"))
    who = f"{len(said)} hosts, a rank each," if len(said) > 1 else "one rank"
    finding = f"{who} met in {_milliseconds(met)} and added 1 MiB in {_milliseconds(added)}"
    return Check(name, "ok", finding)


def not_added(name: str) -> Check:
    fix = "mend the network first"
    return Check(name, "warn", "not tried, since hosts do not reach each other", fix)


def gpus_busy(hosts: Sequence[str]) -> Check:
    fix = "look again when a run has ended"
    return Check("nccl", "warn", f"not tried: no GPU is free on {listed(hosts)}", fix)


def _milliseconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
