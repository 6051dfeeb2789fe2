"""One rank of a trial: meets the others, adds numbers with them, and says how long that took.

Where the ranks are, and what their sums mean, is for others to know.
"""

import time
from dataclasses import dataclass

import torch

from launcher.distributed import Rank, Rendezvous, all_reduce_sum, join_process_group

_NUMBERS = 1 << 18  # 1 MiB of float32: more than one packet, so a wrong MTU shows


@dataclass(frozen=True)
class Sums:
    """What a rank has seen."""

    total: float
    """1 from the first rank, 2 from the second and so on."""
    met_s: float
    """Until the ranks had met and knew the total."""
    added_s: float
    """For the addition of 1 MiB of numbers after that."""


def add(rank: Rank, meeting: Rendezvous, *, backend: str, timeout_s: float) -> Sums:
    """Called by every rank of the trial; each of its parts may take so long."""
    start = time.perf_counter()
    join_process_group(
        rank,
        backend=backend,
        rendezvous=meeting,
        meeting_timeout_s=timeout_s,
        collective_timeout_s=timeout_s,
    )
    (total,) = all_reduce_sum(torch.tensor([1.0 + rank.rank], device=rank.device))
    met = time.perf_counter()
    all_reduce_sum(torch.ones(_NUMBERS, device=rank.device))
    return Sums(total, met_s=met - start, added_s=time.perf_counter() - met)
