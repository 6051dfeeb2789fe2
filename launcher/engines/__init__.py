"""What starts the processes of a run: `inline` in this process, `local` on this host."""

from contextlib import AbstractContextManager, closing
from typing import Literal

from launcher.contracts import Engine
from launcher.plan import RunPlan

EngineName = Literal["inline", "local"]


def default_engine(plan: RunPlan) -> EngineName:
    """One rank runs in this process, where a debugger reaches it; several get processes."""
    return "inline" if plan.ranks.world_size == 1 else "local"


def open_engine(name: EngineName, plan: RunPlan, *, lock_fd: int) -> AbstractContextManager[Engine]:
    """The engine of that name, closed with its `with`."""
    match name:
        case "inline":
            from launcher.engines.inline import InlineEngine

            return closing(InlineEngine())
        case "local":
            from launcher.engines.local import LocalEngine

            return closing(LocalEngine(plan, lock_fd=lock_fd))
