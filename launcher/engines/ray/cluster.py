"""All that the launcher asks of Ray's core: what the cluster has free, and an actor on a host.

Which host gets which ranks is decided in `placement`.
"""

import contextlib
import logging
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # its home; a @DeveloperAPI
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launcher import rundir
from launcher.engines.coordination import Post
from launcher.engines.libraries import imported_ahead, needed
from launcher.engines.protocol import Message, Said, parse_said
from launcher.engines.ray.host import Host
from launcher.engines.ray.placement import Need, Node, Seat
from launcher.errors import ClusterError
from launcher.plan import RunPlan
from launcher.resources import Resources, this_host, together
from launcher.rundir import RunDir

_HEAR_S = 4.0
"""How long a host waits for news of its ranks before it answers that there are none."""
_CLOSE_TIMEOUT_S = 5.0
_ANSWER_S = 15.0
_LOOK_S = 0.5
_GLANCE_S = 2.0
_SETTLE_S = 900.0
"""Longer than a host waits for storage that does not answer."""


class HostLostError(Exception):
    """A host's actor is gone, or its zygote."""


@dataclass(frozen=True)
class Held:
    """Resources that a host of ours holds."""

    node_id: str
    cpus: float
    gpus: float


def connect(address: str, *, cpus: int) -> None:
    """Joins the cluster at the address; empty: starts a private one of so many CPUs."""
    if ray.is_initialized():
        return
    heard = signal.getsignal(signal.SIGTERM)
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    signal.signal(signal.SIGTERM, heard)  # Ray has put its own in the place of ours


def disconnect() -> None:
    """Leaves the cluster; ends a private one."""
    ray.shutdown()


def resources() -> Resources:
    """What the hosts of the cluster have together, as each that answers says of itself."""
    ask: Any = ray.remote(num_cpus=0, max_retries=0)(_describe_this_host)
    asked = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        ).remote(): node["Resources"]
        for node in ray.nodes()
        if node["Alive"]
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
    hosts, cores, gpus = [], [], []
    for answer in answered:
        with contextlib.suppress(RayError):  # it was lost meanwhile
            hosts.append(Resources.from_json(ray.get(answer)))
            cores.append(int(asked[answer].get("CPU", 0)))
            gpus.append(int(asked[answer].get("GPU", 0)))
    if not hosts:
        raise ClusterError(f"no host of the cluster answered within {_ANSWER_S:g} s")
    return together(hosts, cores_by_host=tuple(cores), gpus_by_host=gpus)


def _describe_this_host() -> str:
    return this_host().to_json()


def free_nodes(held: Sequence[Held]) -> list[Node]:
    """The hosts that are alive and stay, with what is free there or held by us."""
    free, leaving = available_resources_per_node(), draining()
    nodes = []
    for node in ray.nodes():
        if not node["Alive"] or node["NodeID"] not in free or node["NodeID"] in leaving:
            continue
        own = [each for each in held if each.node_id == node["NodeID"]]
        resources = free[node["NodeID"]]
        nodes.append(
            Node(
                id=node["NodeID"],
                address=node["NodeManagerAddress"],
                cpus=resources.get("CPU", 0.0) + sum(each.cpus for each in own),
                gpus=resources.get("GPU", 0.0) + sum(each.gpus for each in own),
            )
        )
    return nodes


def draining() -> set[str]:
    """The ids of hosts that Ray is about to take away: preempted, or left idle by an autoscaler."""
    worker: Any = ray._private.worker.global_worker  # Ray Serve asks the same client
    try:
        return set(worker.gcs_client.get_draining_nodes(timeout=_GLANCE_S))
    except RayError:  # a head that is busy is asked again
        return set()


class RemoteHost:
    """A host's actor, seen from the engine."""

    def __init__(self, seat: Seat, need: Need, *, plan: RunPlan) -> None:
        self.node = seat.node
        self.ranks = seat.ranks
        self.held = Held(seat.node.id, seat.ranks * need.cpus, seat.ranks * need.gpus)
        where = NodeAffinitySchedulingStrategy(node_id=seat.node.id, soft=False)
        remote: Any = ray.remote
        actor = remote(concurrency_groups={"hear": 1, "tell": 1})(Host)
        self._actor = actor.options(
            num_cpus=self.held.cpus,
            num_gpus=self.held.gpus,
            scheduling_strategy=where,
        ).remote(
            seat.node.address,
            threads_per_rank=plan.ranks.threads_per_rank,
            secrets=plan.secrets,
            libraries=needed(plan),
            imports=imported_ahead(plan),
        )
        self._hearing = self._ask()

    def _ask(self) -> Any:
        hear = self._actor.hear.options(concurrency_group="hear")
        return hear.remote(timeout_s=_HEAR_S)

    def examine(self, run_dir: str, marker: str) -> Any:
        """A promise of `Host.problems`."""
        return self._actor.problems.remote(run_dir, marker)

    def tell(self, message: Message) -> None:
        """Returns at once; that the host is gone is told by `hear`."""
        tell = self._actor.tell.options(concurrency_group="tell")  # one after the other
        tell.remote(message.model_dump_json())

    @property
    def hearing(self) -> Any:
        """Ready when there are news, or the host is gone."""
        return self._hearing

    def hear(self) -> list[Said]:
        """What it said; HostLostError when it is gone. Only when `hearing` is ready."""
        try:
            lines: list[str] | None = ray.get(self._hearing)
        except RayError as error:
            raise HostLostError(f"host {self.node.address} was lost") from error
        if lines is None:
            raise HostLostError(f"the process that watches the ranks of {self.node.address} died")
        self._hearing = self._ask()
        return [parse_said(line) for line in lines]

    def settle(self) -> Any:
        """A promise of `Host.settle`."""
        return self._actor.settle.options(concurrency_group="tell").remote()

    def close(self) -> None:
        """Leaves no process behind there, if it is reached."""
        with contextlib.suppress(RayError):
            ray.get(self._actor.close.remote(), timeout=_CLOSE_TIMEOUT_S)
        ray.kill(self._actor)


def examine(
    hosts: Sequence[RemoteHost], run_dir: RunDir, *, stop: Callable[[], bool]
) -> tuple[dict[str, str], bool]:
    """What keeps a host from training, by the id of its node; and whether all answered.

    One that does not is not there: another run was quicker to take its room, or it is lost.
    """
    if not hosts:
        return {}, True
    marker = uuid.uuid4().hex
    run_dir.write(rundir.PROBE, marker.encode())
    asked = {host.examine(run_dir.url, marker): host for host in hosts}
    deadline = time.monotonic() + _ANSWER_S
    done: list[Any] = []
    while len(done) < len(asked) and time.monotonic() < deadline and not stop():
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_S)
    answered: dict[str, str] = {}
    for answer in done:
        with contextlib.suppress(RayError):
            answered[asked[answer].node.id] = "\n".join(ray.get(answer))
    run_dir.remove(rundir.PROBE)
    return {node: found for node, found in answered.items() if found}, len(answered) == len(asked)


class Fleet:
    """The hosts of one attempt, by their numbers in it."""

    def __init__(self, hosts: Sequence[RemoteHost]) -> None:
        self.lost: set[int] = set()
        self._hosts = hosts

    def send(self, posts: Iterable[Post]) -> None:
        for number, message in posts:
            if number not in self.lost:
                self._hosts[number].tell(message)

    def news(self, *, timeout_s: float) -> Iterator[tuple[int, Said | HostLostError]]:
        """What hosts say within the time, at once when there is something."""
        hearing = {host.hearing: n for n, host in enumerate(self._hosts) if n not in self.lost}
        done, rest = ray.wait(list(hearing), num_returns=1, timeout=timeout_s)
        if done and rest:
            done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for ref in done:
            number = hearing[ref]
            try:
                for news in self._hosts[number].hear():
                    yield number, news
            except HostLostError as error:
                self.lost.add(number)
                yield number, error

    def settle(self) -> tuple[str, str]:
        """Returns when hosts have brought what they have to the run's URL.

        What was in the way of that; and the hosts that were lost before they had done it.
        """
        asked = {n: h.settle() for n, h in enumerate(self._hosts) if n not in self.lost}
        troubles, lost = list[str](), list[str]()
        for number, answer in asked.items():
            try:
                troubles.append(ray.get(answer, timeout=_SETTLE_S))
            except RayError:
                self.lost.add(number)
                lost.append(self._hosts[number].node.address)
        return "; ".join(filter(None, troubles)), ", ".join(lost)
