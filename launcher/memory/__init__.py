"""Estimates what memory a rank of a plan needs, with DDP and with each stage of ZeRO.

This process never imports torch: one that it starts measures a step (`probing`). What a person
could do about too little memory is told in `advice`.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.memory.advice import advise
from launcher.memory.capacity import Capacity, capacity_of
from launcher.memory.formulas import STRATEGIES, need_of
from launcher.memory.needs import Measured, Need, Setting, half_precision
from launcher.plan import Deepspeed, RunPlan
from launcher.resources import Resources, inherited_environment, own_python_path

__all__ = ["Capacity", "Estimate", "Need", "estimate"]

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Estimate:
    """What a rank needs, one after the other strategy, and whether that is there."""

    absent: str
    """Why there is no estimate; empty: there is one."""
    method: str = ""
    samples: int = 0
    """Of the micro-batch."""
    chosen: str = ""
    """The plan's strategy."""
    needs: tuple[Need, ...] = ()
    capacity: Capacity | None = None
    advice: tuple[str, ...] = ()
    """What would fit, where the plan does not."""


def estimate(plan: RunPlan, resources: Resources) -> Estimate:
    """Takes seconds; a model that cannot be built here is no error, but a reason."""
    answer = _ask(plan)
    if "absent" in answer:
        return Estimate(absent=answer["absent"])
    measured = Measured.from_values(answer["measured"])
    capacity = capacity_of(plan, resources)
    settings = {name: _setting(plan, strategy=name) for name in STRATEGIES}
    chosen = _name(plan)
    return Estimate(
        absent="",
        method=measured.method,
        samples=measured.samples,
        chosen=chosen,
        needs=tuple(need_of(name, measured, settings[name]) for name in STRATEGIES),
        capacity=capacity,
        advice=advise(measured, settings, plan=plan, chosen=chosen, capacity=capacity),
    )


def _name(plan: RunPlan) -> str:
    strategy = plan.strategy
    return f"zero-{strategy.zero_stage}" if isinstance(strategy, Deepspeed) else "ddp"


def _setting(plan: RunPlan, *, strategy: str) -> Setting:
    config = plan.strategy.config if isinstance(plan.strategy, Deepspeed) else {}
    per_rank = plan.train.global_batch_size // plan.ranks.world_size
    return Setting(
        world_size=plan.ranks.world_size,
        on_gpu=plan.ranks.device == "cuda",
        accumulates=per_rank > plan.train.micro_batch_size,
        half=strategy != "ddp" and _is_half(plan, strategy=strategy),
        zero=config.get("zero_optimization", {}),
    )


def _is_half(plan: RunPlan, *, strategy: str) -> bool:
    """As configured; of fp16 the planner makes DeepSpeed's own from stage 1 on, else autocast."""
    dtype = half_precision(plan)
    if strategy == "zero-0" and _name(plan) != "zero-0":
        return dtype == "bf16"
    return bool(dtype) or (plan.train.precision == "fp16" and strategy != "zero-0")


def _ask(plan: RunPlan) -> Mapping[str, Any]:
    """What the measuring process answers, or why it does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "launcher.memory.probing"],
            input=plan.model_dump_json(),
            env=inherited_environment(PYTHONPATH=own_python_path()),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"absent": f"a step of the model was not measured within {_TIMEOUT_S:.0f} s"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"absent": f"the measuring process ended with {done.returncode}: {last}"}
    return dict(json.loads(done.stdout))
