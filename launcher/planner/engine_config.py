"""DeepSpeed's configuration, from what the spec and the plan say: all of it, decided.

What a person's own configuration may add, and where it contradicts the spec, is decided here too.
"""

from typing import Any

from launcher import plan as planned
from launcher.planner.choices import Choices
from launcher.spec import Strategy

_ZERO_STAGE = 2


def plan_strategy(
    asked: Strategy, train: planned.Train, ranks: planned.Ranks, choices: Choices
) -> planned.Ddp | planned.Deepspeed:
    if asked.name == "ddp":
        return planned.Ddp(find_unused_parameters=asked.find_unused_parameters)
    stage = choices.take(
        "strategy.zero_stage",
        asked.zero_stage,
        _ZERO_STAGE,
        "optimizer state and gradients are split, at no more traffic than DDP's",
    )
    config = {
        **_batches(train, ranks),
        **_precision(train, stage),
        "gradient_clipping": train.clip_grad_norm,
        "zero_optimization": _zero(asked, stage),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    return planned.Deepspeed(zero_stage=stage, config=config)


def _batches(train: planned.Train, ranks: planned.Ranks) -> dict[str, Any]:
    per_rank = train.global_batch_size // ranks.world_size
    return {
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": per_rank // train.micro_batch_size,
    }


def _precision(train: planned.Train, stage: int) -> dict[str, Any]:
    """Autocast, the arithmetic of DDP; but its loss scaling does not know of split gradients."""
    if train.precision == "fp16" and stage:
        return {"fp16": {"enabled": True, "auto_cast": True}}
    if train.precision == "fp32":
        return {}
    dtype = {"bf16": "bfloat16", "fp16": "float16"}[train.precision]
    return {"torch_autocast": {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}}


def _zero(asked: Strategy, stage: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    for name, device in (
        ("offload_optimizer", asked.offload_optimizer),
        ("offload_param", asked.offload_parameters),
    ):
        if device:
            path = {"nvme_path": asked.nvme_path} if device == "nvme" else {}
            zero[name] = {"device": device, **path}
    return zero
