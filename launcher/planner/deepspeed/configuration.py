"""All that DeepSpeed's engine is configured with, from the spec, the plan and the person's config.

That these agree was made sure of before, by `problems`.
"""

from collections.abc import Mapping
from typing import Any

from launcher import plan as planned
from launcher.errors import PreflightError
from launcher.planner.choices import Choices
from launcher.planner.deepspeed.said import (
    AUTO,
    AUTOCAST,
    DEFAULT_STAGE,
    own_config,
    said,
    said_auto,
)
from launcher.planner.deepspeed.vocabulary import REFUSED
from launcher.spec import Strategy


def plan_deepspeed(
    asked: Strategy, train: planned.Train, ranks: planned.Ranks, choices: Choices
) -> planned.Deepspeed:
    if train.precision == "fp16" and ranks.device == "cpu":
        raise PreflightError(
            "train.precision is fp16, which DeepSpeed has on GPUs only, and the ranks run on CPUs; "
            "set train.precision to bf16 or fp32"
        )
    stage = choices.take(
        "strategy.zero_stage",
        asked.zero_stage,
        DEFAULT_STAGE,
        "optimizer state and gradients are split, at no more traffic than DDP's",
    )
    own = own_config(asked)
    usual = {
        "torch_autocast": {"lower_precision_safe_modules": []},
        "fp16": {"auto_cast": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    decided = {
        **batches(train, ranks),
        **_precision(train, stage, own),
        "gradient_clipping": train.clip_grad_norm,
        "zero_optimization": _zero(asked, stage),
    }
    passed = {
        name: value for name, value in own.items() if (name,) not in REFUSED and name != "optimizer"
    }
    config = _merged(_merged(usual, _settled(passed)), decided)
    unused = {"torch_autocast", "fp16"} - decided.keys()
    return planned.Deepspeed(
        zero_stage=stage,
        config={name: value for name, value in config.items() if name not in unused},
    )


def batches(train: planned.Train, ranks: planned.Ranks) -> dict[str, int]:
    """The part of the config that follows from the number of ranks."""
    per_rank = train.global_batch_size // ranks.world_size
    return {
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": per_rank // train.micro_batch_size,
    }


def _precision(train: planned.Train, stage: int, own: Mapping[str, Any]) -> dict[str, Any]:
    """Which of DeepSpeed's three ways to low precision is on; a way that is written is on or off.

    Autocast is the arithmetic of DDP. Its loss scaling does not know of split gradients, so that
    ZeRO has float16 in DeepSpeed's own way; bfloat16 so, with weights in it, where it is asked for.
    """
    in_bf16 = said(own, ("bf16", "enabled")) is True or said_auto(own, ("bf16", "enabled"))
    wanted = train.precision == "fp16" or in_bf16
    own_way = stage > 0 and wanted and said(own, AUTOCAST) is not True
    ways = {
        "bf16": train.precision == "bf16" and own_way,
        "fp16": train.precision == "fp16" and own_way,
        "torch_autocast": train.precision != "fp32" and not own_way,
    }
    decided: dict[str, Any] = {n: {"enabled": on} for n, on in ways.items() if on or n in own}
    if "fp16" in decided and not ways["fp16"]:
        decided["fp16"]["auto_cast"] = False  # DeepSpeed heeds it even when fp16 is off
    if ways["torch_autocast"]:
        dtype = {"bf16": "bfloat16", "fp16": "float16"}[train.precision]
        decided["torch_autocast"]["dtype"] = dtype
    return decided


def _zero(asked: Strategy, stage: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    for name, device in (
        ("offload_optimizer", asked.offload_optimizer),
        ("offload_param", asked.offload_parameters),
    ):
        if device:
            zero[name] = {"device": device}
        if device == "nvme" and asked.nvme_path:
            zero[name]["nvme_path"] = asked.nvme_path
    return zero


def _settled(value: Any) -> Any:
    """Without what is left open: DeepSpeed's own default stands there."""
    if not isinstance(value, dict):
        return value
    return {name: _settled(item) for name, item in value.items() if item not in (AUTO, None)}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both; of two values at one place, that of `over`."""
    both = {n: _merged(under[n], v) for n, v in over.items() if isinstance(v, dict) and n in under}
    return {**under, **over, **both}
