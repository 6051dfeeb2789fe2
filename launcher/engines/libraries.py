"""The libraries that ranks train with: whether a host has them, and what is imported ahead."""

import sys
from collections.abc import Sequence

from launcher.errors import PreflightError
from launcher.plan import Deepspeed, RunPlan
from launcher.resources import is_installed


def needed(plan: RunPlan) -> tuple[str, ...]:
    """Packages that every host of a run must have."""
    return ("torch", "deepspeed") if isinstance(plan.strategy, Deepspeed) else ("torch",)


def missing(packages: Sequence[str], *, host: str) -> list[str]:
    """What a person must do about those that this Python lacks, a sentence each."""
    return [
        f"host {host} has no {package}; install it for {sys.executable}"
        for package in packages
        if not is_installed(package)
    ]


def require_here(plan: RunPlan) -> None:
    """PreflightError when the plan's strategy needs what is not installed."""
    if missing(needed(plan), host="") and isinstance(plan.strategy, Deepspeed):
        raise PreflightError(
            "the spec asks for strategy deepspeed, but deepspeed is not installed here; run "
            "`pip install 'torch-launcher[deepspeed]'`, or train with `--set strategy=ddp`"
        )


def imported_ahead(plan: RunPlan) -> tuple[str, ...]:
    """Modules that the process from which ranks are forked imports, beside torch.

    Not with a GPU: DeepSpeed looks at it when it is imported, and CUDA outlives no fork.
    """
    ahead = isinstance(plan.strategy, Deepspeed) and plan.ranks.device == "cpu"
    return ("launcher.strategies.deepspeed",) if ahead else ()
