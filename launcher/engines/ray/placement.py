"""Decides how many ranks fit a cluster now, and on which host each of them goes. Pure.

What the cluster has is read by `cluster`; what a size means for the batch, by `planner`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """What one host of the cluster has free."""

    id: str
    address: str
    cpus: float
    gpus: float

    def room(self, need: "Need") -> int:
        """How many ranks it can take."""
        by_cpu = int(self.cpus // need.cpus)
        return min(by_cpu, int(self.gpus // need.gpus)) if need.gpus else by_cpu


@dataclass(frozen=True)
class Need:
    """What one rank takes."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs" + (f" and {self.gpus} GPUs" if self.gpus else "")


@dataclass(frozen=True)
class Seat:
    """Consecutive ranks on one host."""

    node: Node
    first_rank: int
    ranks: int


def room(nodes: Iterable[Node], need: Need) -> int:
    """How many ranks the hosts can take together."""
    return sum(node.room(need) for node in nodes)


def seats(world_size: int, nodes: Iterable[Node], need: Need) -> tuple[Seat, ...]:
    """As few hosts as can be, the roomiest first; empty when the ranks do not fit."""
    left, found = world_size, list[Seat]()
    for node in sorted(nodes, key=lambda node: (-node.room(need), node.address)):
        ranks = min(left, node.room(need))
        if ranks:
            found.append(Seat(node, first_rank=world_size - left, ranks=ranks))
            left -= ranks
    return tuple(found) if left == 0 else ()


def largest(sizes: Sequence[int], nodes: Sequence[Node], need: Need) -> int:
    """The largest of these world sizes that fits; 0 when none does."""
    return max((size for size in sizes if size <= room(nodes, need)), default=0)
