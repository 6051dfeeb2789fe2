"""One finding for many hosts: equal ones are said once, with the hosts that they are true of."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from launcher.doctor.verdicts import Check

JOIN_ANEW = (
    "`ray stop` there, then `launcher cluster join HEAD:6379 --address IP --token-file FILE`"
)
_MOST = 4
"""Hosts, or different findings, that one line names."""


def listed(words: Sequence[str]) -> str:
    """`a, b, c, d and 12 more`."""
    rest = len(words) - _MOST
    return ", ".join(words[:_MOST]) + (f" and {rest} more" if rest > 0 else "")


def merged(by_host: Mapping[str, str]) -> str:
    """`all 3 hosts: eth0`, `both hosts: eth0`, or `10.0.0.1, 10.0.0.2: eth0; 10.0.0.3: ib0`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for host, finding in by_host.items():
        groups[finding].append(host)
    if len(groups) == 1 and len(by_host) > 1:
        who = "both hosts" if len(by_host) == 2 else f"all {len(by_host)} hosts"
        return f"{who}: {next(iter(groups))}"
    said = [f"{listed(hosts)}: {finding}" for finding, hosts in groups.items()]
    rest = len(said) - _MOST
    return "; ".join(said[:_MOST]) + (f"; and {rest} more" if rest > 0 else "")


def merged_checks(by_host: Mapping[str, Check]) -> Iterator[Check]:
    """One check of those that have the same name, status and fix; the bad ones first."""
    groups: dict[tuple[str, str], dict[str, Check]] = defaultdict(dict)
    for host, check in by_host.items():
        groups[check.status, check.fix][host] = check
    for status in ("FAIL", "warn", "ok"):
        for (found, fix), checks in groups.items():
            if found == status:
                first = next(iter(checks.values()))
                finding = merged({host: check.finding for host, check in checks.items()})
                yield Check(first.name, first.status, finding, fix)


def silent_hosts(
    name: str,
    reasons: Mapping[str, str],
    *,
    fix: str = JOIN_ANEW,
    status: Literal["warn", "FAIL"] = "FAIL",
) -> Iterator[Check]:
    """Those that gave no answer to a question."""
    yield from merged_checks({host: Check(name, status, why, fix) for host, why in reasons.items()})
