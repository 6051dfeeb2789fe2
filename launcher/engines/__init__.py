"""What starts the processes of a run: in this process, on this host, or on a Ray cluster."""

import math
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Literal

from launcher.contracts import Engine
from launcher.lock import Hold
from launcher.plan import RunPlan

EngineName = Literal["inline", "local", "ray"]


@dataclass(frozen=True)
class EngineChoice:
    """Which engine, and for `ray` which cluster."""

    name: EngineName
    address: str = ""
    """Of the cluster's head; empty: a private Ray on this machine."""
    wait_timeout_s: float = math.inf
    """How long an attempt waits for room."""


def default_engine(plan: RunPlan) -> EngineChoice:
    """One rank runs in this process, where a debugger reaches it; several get processes."""
    return EngineChoice("inline" if plan.ranks.world_size == 1 else "local")


def open_engine(
    choice: EngineChoice, plan: RunPlan, *, hold: Hold
) -> AbstractContextManager[Engine]:
    """The engine that was chosen, closed with its `with`."""
    match choice.name:
        case "inline":
            from launcher.engines.inline import InlineEngine

            return closing(InlineEngine())
        case "local":
            from launcher.engines.local import LocalEngine

            return closing(LocalEngine(plan, lock_fd=hold.descriptor))
        case "ray":
            from launcher.engines.ray import RayEngine

            return closing(
                RayEngine(
                    plan,
                    address=choice.address,
                    wait_timeout_s=choice.wait_timeout_s,
                    token=hold.token,
                )
            )
