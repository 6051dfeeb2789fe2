"""`launcher.doctor.cluster`: what the answers of hosts mean, and what a host finds out."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.doctor import cluster_verdicts as verdicts
from launcher.doctor import network_verdicts as network
from launcher.doctor.by_host import listed, merged
from launcher.doctor.cluster import _peers
from launcher.doctor.host import Examiner, Facts
from launcher.doctor.verdicts import Check
from launcher.engines.ray.placement import Need, Node
from launcher.resources import this_host

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
SILENT = {C: "no answer within 30 s"}
CPU, GPU = Need(cpus=1, gpus=0), Need(cpus=1, gpus=1)


def node(address: str, cpus: float, gpus: float = 0.0) -> Node:
    return Node(id=f"id of {address}", address=address, cpus=cpus, gpus=gpus)


def facts(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "versions": {},
        "resources": "",
        "driver_trouble": "",
        "interface": "eth0",
        "chosen_interface": "",
    }
    return Facts(**values | changes)


def version(name: str, *found: str, laptop: str = "") -> Check:
    return verdicts.version(name, dict(zip((A, B, C), found, strict=False)), laptop=laptop)


def room(sizes: list[int], need: Need, *idle: Node, free: Iterable[Node] | None = None) -> Check:
    now = list(idle if free is None else free)
    return verdicts.room(sizes, need, free=now, idle=idle, batch=32)


def sums(total: float) -> dict[str, float]:
    return {"total": total, "met_s": 1.25, "added_s": 0.004}


TWO = [node(A, 1.0), node(B, 2.0)]
SHARED: dict[str, Any] = {"probe": "/runs/.doctor-5", "free_bytes": float("inf")}
UNSHARED = f"host {B} does not see in /runs/.doctor-5 what the head wrote there; name another"

VERDICTS: list[tuple[Check | Iterable[Check], str, str]] = [
    (verdicts.hosts([A], {}, head=A, lost=[]), "ok", "1 host answers: 10.0.0.1 (head)"),
    (verdicts.hosts([A, B], {}, head=A, lost=[C]), "ok", "no longer in the cluster: 10.0.0.3"),
    (verdicts.hosts([], SILENT, head=A, lost=[]), "FAIL", "10.0.0.3: no answer within 30 s"),
    (verdicts.token(open_to_all=False), "ok", "no job without one"),
    (verdicts.token(open_to_all=True), "warn", "without a token"),
    (version("python", "3.11.2", "3.11.9", laptop="3.11.4"), "ok", "3.11.2; 10.0.0.2: 3.11.9"),
    (version("python", "3.11.2", "3.12.1"), "FAIL", "10.0.0.2: 3.12.1"),
    (version("python", "3.11.2", laptop="3.12.1"), "warn", "your machine: 3.12.1"),
    (version("ray", "2.60.0", "2.61.0"), "FAIL", "10.0.0.2: 2.61.0"),
    (version("ray", "2.60.0", "", laptop="2.60.0"), "FAIL", "10.0.0.2: none"),
    (version("ray", "2.60.0", "2.60.0", "2.60.0"), "ok", "all 3 hosts: 2.60.0"),
    (version("torch", "2.13.0+cpu", "2.13.0+cpu", laptop="2.13.0"), "ok", "both hosts"),
    (version("torch", "2.13.0", "2.13.1"), "FAIL", "10.0.0.2: 2.13.1"),
    (version("torch", "2.13.0+cu128", "2.13.0+cpu"), "warn", "10.0.0.2: 2.13.0+cpu"),
    (version("torch", "2.13.0", laptop="2.12.0"), "warn", "your machine: 2.12.0"),
    (version("torch", "2.13.0", laptop=""), "ok", "10.0.0.1: 2.13.0"),
    (verdicts.free(TWO), "ok", "free on 10.0.0.1: 1 CPU; 10.0.0.2: 2 CPUs"),
    (room([3], CPU, *TWO), "ok", "3 ranks of 1 CPU fit; free on 10.0.0.1: 1 CPU"),
    (room([1, 2, 4], CPU, node(A, 1.0)), "ok", "1 rank of 1 CPU fits, of the 1 to 4"),
    (room([3], CPU, *TWO, free=[node(A, 0.0), node(B, 2.0)]), "warn", "1 CPU now; free on"),
    (room([4], CPU, *TWO), "FAIL", "no room for 4 ranks of 1 CPU, even on an idle cluster"),
    (room([2], GPU, node(A, 8.0, 1.0)), "FAIL", "2 ranks of 1 CPU and 1 GPU"),
    (verdicts.refused("world_size is 2; set it to 1"), "FAIL", "world_size is 2"),
    (verdicts.secrets(["KEY"], {A: [], B: []}, {}), "ok", "every host has KEY"),
    (verdicts.secrets(["KEY"], {A: [], B: ["KEY"]}, {}), "FAIL", "10.0.0.2: KEY"),
    (verdicts.no_storage(), "warn", "none is named"),
    (verdicts.unwritten("/x", host=A, trouble="E: /x: denied; go"), "FAIL", "written: denied"),
    (verdicts.storage("/runs", {A: [], B: []}, {}, **SHARED), "ok", "/runs, shared by 2 hosts"),
    (verdicts.storage("/runs", {B: [UNSHARED]}, {}, **SHARED), "FAIL", "not see in /runs what"),
    (verdicts.storage("/runs", {}, SILENT, **SHARED), "FAIL", "10.0.0.3: no answer"),
    (network.interfaces({A: facts(), B: facts()}), "ok", "both hosts: eth0 holds"),
    (network.interfaces({A: facts(chosen_interface="ib0")}), "ok", "ib0, by GLOO_SOCKET_IFNAME"),
    (network.interfaces({A: facts(interface="")}), "warn", "no interface"),
    (network.interfaces({A: facts(interface="lo")}), "ok", "lo holds"),
    (network.interfaces(dict.fromkeys([A, B], facts(interface="lo"))), "FAIL", "loopback"),
    (network.names({A: A}, {}, {A: facts()}), "ok", "stands for the Ray address"),
    (network.names({A: "127.0.1.1"}, {}, {A: facts()}), "ok", "127.0.1.1; no harm, as ranks use"),
    (network.names({A: "127.0.1.1"}, {}, {A: facts(interface="")}), "FAIL", "127.0.1.1"),
    (network.names({A: ""}, {}, {A: facts(interface="")}), "FAIL", "stands for nothing"),
    (network.names({}, SILENT, {}), "warn", "no answer"),
    (network.network({A: {B: 0.001}, B: {A: 0.1}}, {}), "ok", "2 connections, the slowest"),
    (network.network({A: {B: "refused"}, B: {A: 0.1}}, {}), "FAIL", "0.1 to 10.0.0.2 (refused)"),
    (network.network({A: {B: 0.001}}, {B: "gone"}), "FAIL", "10.0.0.2 (gone)"),
    (network.network({A: {}}, {}), "ok", "no other"),
    (network.addition("gloo", {A: sums(3.0), B: sums(3.0)}, {}), "ok", "1.2 s and added 1 MiB"),
    (network.addition("gloo", {A: sums(1.0)}, {}), "ok", "one rank met"),
    (network.addition("gloo", {A: sums(1.0), B: sums(3.0)}, {}), "FAIL", "not to 3"),
    (network.addition("nccl", {A: {"trouble": "no route"}}, {}), "FAIL", "no route"),
    (network.addition("gloo", {A: {"torch_trouble": "no libc"}}, {}), "FAIL", "torch cannot be"),
    (network.addition("gloo", {}, SILENT), "FAIL", "no answer"),
    (network.not_added("gloo"), "warn", "not tried"),
    (network.gpus_busy([A]), "warn", "no GPU is free on 10.0.0.1"),
]


@pytest.mark.parametrize(
    ("checks", "status", "word"), VERDICTS, ids=[f"{word}: {s}" for _, s, word in VERDICTS]
)
def test_an_answer_gets_its_status_and_whatever_is_not_ok_a_fix(
    checks: Check | Iterable[Check], status: str, word: str
) -> None:
    (check,) = [checks] if isinstance(checks, Check) else checks
    assert check.status == status
    assert word in check.finding
    assert check.fix or status == "ok"


@pytest.mark.parametrize(
    ("check", "fix"),
    [
        (room([4], CPU, *TWO), "world_size to 2"),  # 3 would fit, and does not divide 32
        (room([2], Need(4, 0), node(A, 2.0), node(B, 1.0)), "cpus_per_rank to 1"),
        (room([3], Need(4, 0), node(A, 1.0)), "a smaller resources.world_size"),
        (room([1], CPU, *TWO, free=[]), "wait for other runs"),
        (version("torch", "2.13.0+cpu", "2.12.0"), "install torch 2.13.0 on every host"),
        (version("torch", "", "2.13.0"), "install torch 2.13.0 on every host"),
    ],
)
def test_a_fix_is_one_that_would_help(check: Check, fix: str) -> None:
    assert fix in check.fix


def test_hosts_of_which_some_are_short_are_told_apart() -> None:
    here = this_host()
    small = replace(here, memory_bytes=1)
    found = verdicts.hardware({h: facts(resources=r.to_json()) for h, r in ((A, here), (B, small))})
    said = [(check.status, check.finding) for check in found if check.name == "memory"]
    assert [status for status, _ in said] == ["warn", "ok"]
    assert said[0][1] == "10.0.0.2: 0.0 GiB"


def test_many_hosts_are_said_in_few_words() -> None:
    hosts = [f"h{n}" for n in range(100)]
    assert listed(hosts) == "h0, h1, h2, h3 and 96 more"
    assert merged(dict.fromkeys(hosts, "eth0")) == "all 100 hosts: eth0"
    assert merged({h: h for h in hosts}) == "h0: h0; h1: h1; h2: h2; h3: h3; and 96 more"
    assert merged({"a": "x", "b": "y", "c": "x"}) == "a, c: x; b: y"


def test_every_host_tries_every_other_and_of_many_its_neighbour() -> None:
    assert _peers([A, B, C]) == {A: [B, C], B: [A, C], C: [A, B]}
    many = [f"h{n}" for n in range(9)]
    ring = _peers(many)
    assert all(len(peers) == 1 for peers in ring.values())
    assert sorted(peer for peers in ring.values() for peer in peers) == many


def test_a_host_reaches_who_listens_and_says_why_it_does_not_reach_another() -> None:
    with closing(Examiner("127.0.0.1")) as one, closing(Examiner("127.0.0.1")) as other:
        assert isinstance(one.reach({"127.0.0.1": other.listen()})["127.0.0.1"], float)
        assert one.reach({"127.0.0.1": 1})["127.0.0.1"] == "Connection refused"
        assert one.reach({}) == {}


def test_a_host_describes_itself_without_torch_or_a_run() -> None:
    described = Facts(**Examiner("127.0.0.1").describe())
    assert described.interface == "lo"
    assert described.versions["torch"]
    assert Examiner("127.0.0.1").lacking_secrets(["NO_SUCH_KEY"]) == ["NO_SUCH_KEY"]


def test_probing_a_shared_storage_leaves_nothing_behind(tmp_path: Path) -> None:
    head, other = Examiner(A), Examiner(B)
    started = head.start_probe(str(tmp_path / "a" / "runs"), "5")
    assert started["free_bytes"] > 0
    assert other.storage_problems(started["url"], "5") == []
    assert "does not see" in other.storage_problems(started["url"], "6")[0]
    head.close()
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_the_head_cannot_write_is_told_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    started = Examiner(A).start_probe(str(tmp_path / "file" / "runs"), "5")
    assert started["url"] == ""
    assert "Not a directory" in started["trouble"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_host_adds_alone() -> None:
    """In a process of its own on a cluster; here a group of one harms no other test."""
    assert network.addition("gloo", {A: sums(1.0)}, {}).finding.startswith("one rank met")
