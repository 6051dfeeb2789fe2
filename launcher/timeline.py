"""Where the time of a run went, attempt by attempt, read from its events and rows. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Spent:
    """One attempt; what never came to be is 0."""

    attempt: int
    ranks: str
    """`2 on 2 hosts`; empty where they were not placed by a cluster."""
    wait_s: float
    """Until there was room on the cluster."""
    fork_s: float
    """Until the ranks ran: starting processes, importing torch."""
    build_s: float
    """The user's imports, the model and the datasets."""
    meet_s: float
    """The rendezvous of the ranks."""
    load_s: float
    """Wrapping the model, and reading a checkpoint."""
    first_step_s: float
    """To the end of the first step: the first batch, compilation."""
    train_s: float
    """From there to the end of the attempt."""
    steps: int
    lost_steps: int
    """Of these, what the next attempt does again."""
    end: str
    """The kind of failure, `resize`, or empty: it ended as the run did."""


def spent(events: Iterable[Event], rows: Iterable[Event]) -> list[Spent]:
    """One for each attempt, in their order."""
    by_attempt: dict[int, dict[str, Event]] = {}
    for event in events:
        if "attempt" in event:
            by_attempt.setdefault(event["attempt"], {})[event["event"]] = event
    ended = [(row["step"], row["time"]) for row in rows]
    attempts = [*by_attempt.values(), {}]
    return [_spent(attempt, after, ended) for attempt, after in pairwise(attempts)]


def _spent(
    attempt: Mapping[str, Event], after: Mapping[str, Event], ended: Sequence[tuple[int, float]]
) -> Spent:
    """`after` are the events of the next attempt; `ended` the steps that stand, and their times."""
    began = attempt.get("attempt", {}).get("time", 0.0)
    placed, training = attempt.get("placed", {}), attempt.get("training", {})
    over = attempt.get("failure") or attempt.get("resize") or {}
    seated = placed.get("time", began)
    ready = training.get("time", over.get("time", seated))
    laps = {name: training.get(name, 0.0) for name in ("build_s", "meet_s", "load_s")}
    next_began = after.get("attempt", {}).get("time", math.inf)
    own = [(step, time) for step, time in ended if training and ready <= time < next_began]
    until = over.get("time", own[-1][1] if own else ready)
    first = own[0][1] if own else until
    start = training.get("step", 0)
    last = over.get("step", own[-1][0] if own else start)
    return Spent(
        attempt=attempt.get("attempt", {}).get("attempt", 0),
        ranks=f"{placed['world_size']} on {len(placed['hosts'])} hosts" if placed else "",
        wait_s=seated - began,
        fork_s=max(0.0, ready - seated - sum(laps.values())),
        **laps,
        first_step_s=max(0.0, first - ready),
        train_s=max(0.0, until - first),
        steps=max(0, last - start),
        lost_steps=max(0, last - after["training"]["step"]) if "training" in after else 0,
        end=over.get("kind", over.get("event", "")),
    )
