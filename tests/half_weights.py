"""Trains with DeepSpeed's own fp16, which needs a GPU, on a CPU that is said to have it.

`tests.integration.test_deepspeed` starts it: `python -m tests.half_weights`. It prints, as JSON and
by ZeRO stage, the losses, the steps that overflowed, and whether a copy that went on from the
state in the middle came to the same.
"""

import json
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn

from launcher.contracts import Strategy
from launcher.distributed import Rank, join_process_group
from launcher.plan import Deepspeed, RunPlan
from launcher.strategies import build_model, make_strategy
from tests.plans import make_plan, ranks

ALONE = Rank(rank=0, world_size=1, local_rank=0, local_world_size=1, device=torch.device("cpu"))
STEPS = 8
INPUTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1] * 4)


class Classes:
    """The part of a task that a strategy needs."""

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))


def plan_of(stage: int) -> RunPlan:
    """The scale begins so high that the first steps overflow."""
    plan = make_plan(ranks=ranks(1))
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "fp16": {"enabled": True, "initial_scale_power": 20},
    }
    optimizer = plan.train.optimizer.model_copy(update={"target": "torch.optim:AdamW"})
    changes = {"precision": "fp16", "clip_grad_norm": 1.0, "optimizer": optimizer}
    return plan.model_copy(
        update={
            "train": plan.train.model_copy(update=changes),
            "strategy": Deepspeed(zero_stage=stage, config=config),
        }
    )


def fresh(stage: int) -> Strategy:
    plan = plan_of(stage)
    model = build_model(Classes(), plan=plan)  # type: ignore[arg-type]  # no data is asked for
    return make_strategy(model, plan=plan, rank=ALONE)


def step(strategy: Strategy) -> tuple[float, float]:
    """Loss and gradient norm; the norm of a step that is left out is infinite."""
    strategy.model.train()
    with strategy.forward(last=True):
        loss = nn.functional.cross_entropy(strategy.model(INPUTS).float(), LABELS)
        strategy.backward(loss)
    return loss.item(), float(strategy.update()["grad_norm"])


def state(strategy: Strategy) -> tuple[dict[str, dict[str, Tensor]], Any]:
    tensors = {
        file: {name: part.values.detach().clone().view(part.shape) for name, part in parts.items()}
        for file, parts in strategy.tensors().items()
    }
    return tensors, json.loads(json.dumps(strategy.scalars()))


def trained(stage: int) -> dict[str, Any]:
    unbroken, other = fresh(stage), fresh(stage)
    first = [step(unbroken) for _ in range(STEPS)]
    other.load(*state(unbroken))
    same = [step(unbroken) for _ in range(STEPS)] == [step(other) for _ in range(STEPS)]
    return {
        "losses": [loss for loss, _ in first],
        "overflowed": sum(norm == float("inf") for _, norm in first),
        "goes_on": same and state(unbroken)[1] == state(other)[1],
    }


if __name__ == "__main__":
    join_process_group(
        ALONE,
        backend="gloo",
        rendezvous=None,
        meeting_timeout_s=60,
        collective_timeout_s=60,
        alone_too=True,
    )
    type(get_accelerator()).is_fp16_supported = lambda _: True
    print(json.dumps({stage: trained(stage) for stage in (2, 3)}))  # noqa: T201  # its result
    dist.destroy_process_group()
