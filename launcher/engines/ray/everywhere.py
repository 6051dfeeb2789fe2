"""An actor on each host of a Ray cluster, to ask all of them the same thing in bounded time.

What is asked, and what an answer means, is the knowledge of who asks: `doctor`.
"""

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launcher.engines.ray import cluster

_HEAD = "node:__internal_head__"
_LOST = "the cluster lost it while it was asked"
_CALLS_AT_ONCE = 4
"""A call that hangs on a host, as one to a dead file system does, holds up no later one."""


@dataclass(frozen=True)
class Member:
    """A host that the cluster counts as its own, with all that it has."""

    id: str
    address: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Answers:
    """What hosts said, by their addresses."""

    said: dict[str, Any]
    silent: dict[str, str]
    """Why the others said nothing."""


@contextlib.contextmanager
def connected() -> Iterator[list[Member]]:
    """The hosts of the cluster that this process runs on, the head first."""
    cluster.connect("auto", cpus=0)
    try:
        nodes = _nodes(alive=True)
        nodes.sort(key=lambda node: (_HEAD not in node["Resources"], node["NodeManagerAddress"]))
        yield [
            Member(
                id=node["NodeID"],
                address=node["NodeManagerAddress"],
                cpus=node["Resources"].get("CPU", 0.0),
                gpus=node["Resources"].get("GPU", 0.0),
            )
            for node in nodes
        ]
    finally:
        cluster.disconnect()


def lost() -> list[str]:
    """The addresses of hosts that were in the cluster once, and are not now."""
    here = {node["NodeManagerAddress"] for node in _nodes(alive=True)}
    return sorted({node["NodeManagerAddress"] for node in _nodes(alive=False)} - here)


def _nodes(*, alive: bool) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] == alive]


class Everywhere:
    """An actor of one class on each of these hosts; a `with` leaves none behind.

    An actor is made with its host's address, and takes no CPU from a run.
    """

    def __init__(
        self, kind: type, members: Sequence[Member], *, ends_at: float, gpus: int = 0
    ) -> None:
        """`ends_at` is where `time.monotonic()` may be when the last answer is in."""
        self._ends_at = ends_at
        actor: Any = ray.remote(kind)
        self._actors = {
            member.address: actor.options(
                num_cpus=0,
                num_gpus=gpus,
                max_concurrency=_CALLS_AT_ONCE,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=member.id, soft=False),
            ).remote(member.address)
            for member in members
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave(self.hosts)

    @property
    def hosts(self) -> list[str]:
        """The addresses, in the order in which they were given."""
        return list(self._actors)

    def ask(
        self, method: str, arguments: Mapping[str, Sequence[Any]], *, timeout_s: float
    ) -> Answers:
        """What these hosts answer to a call of the method, each with its own arguments."""
        timeout_s = max(0.0, min(timeout_s, self._ends_at - time.monotonic()))
        calls = {
            getattr(self._actors[host], method).remote(*values): host
            for host, values in arguments.items()
        }
        if not calls:
            return Answers({}, {})
        _, late = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s)
        answers = Answers({}, {})
        for call, host in calls.items():  # in the order of the hosts
            try:
                if call in late:
                    answers.silent[host] = f"no answer within {timeout_s:.0f} s"
                else:
                    answers.said[host] = ray.get(call)
            except RayError as error:
                answers.silent[host] = _LOST if host in lost() else _last_line(error)
        return answers

    def leave(self, hosts: Collection[str]) -> None:
        """Asks these no more: their actors end, and what they had opened goes with them."""
        for host in hosts:
            ray.kill(self._actors.pop(host))


def _last_line(error: RayError) -> str:
    """Ray puts whole tracebacks into a message, and the error itself last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
