"""A tiny run plan that is valid as it is, and a host, for tests that do not train with them.

How a plan comes from a spec is tested with `planner`.
"""

from typing import Any

from launcher.plan import RunPlan
from launcher.resources import Gpu, Resources

H100 = Gpu(name="H100", memory_bytes=80 << 30, compute_capability=(9, 0))
T4 = Gpu(name="T4", memory_bytes=16 << 30, compute_capability=(7, 5))


def host(**changes: Any) -> Resources:
    """A host of 8 cores without a GPU; a keyword replaces a fact."""
    facts: dict[str, Any] = {
        "host": "here",
        "cores": 8,
        "memory_bytes": 16 << 30,
        "shm_bytes": 8 << 30,
        "gpus": (),
        "cpu_name": "a CPU",
        "cpu_native_bf16": True,
        "cpu_native_fp16": False,
        "wandb_key": False,
    }
    facts |= changes
    return Resources(**{"cores_by_host": (facts["cores"],), **facts})


def ranks(world_size: int) -> dict[str, Any]:
    """So many ranks of one thread on CPUs."""
    return {
        "world_size": world_size,
        "min_world_size": world_size,
        "max_world_size": world_size,
        "device": "cpu",
        "backend": "gloo",
        "threads_per_rank": 1,
    }


def make_plan(**overrides: Any) -> RunPlan:
    """The plan of `digits-20261122-134501-3fa9`; a keyword replaces a whole field."""
    call = {"target": "torch.nn:Identity", "args": {}}
    values = {
        "run_id": "digits-20261122-134501-3fa9",
        "name": "digits",
        "seed": 7,
        "storage": "/nowhere/runs",
        "code_dir": "/nowhere",
        "task": {
            "kind": "declared",
            "model": {"target": "torch.nn:Linear", "args": {"in_features": 4, "out_features": 2}},
            "train_data": call,
            "eval_data": [],
            "loss": {"target": "torch.nn:CrossEntropyLoss"},
        },
        "train": {
            "optimizer": {"target": "torch.optim:SGD", "args": {"lr": 0.1}},
            "schedule": {"target": "torch.optim.lr_scheduler:ConstantLR", "warmup_steps": 0},
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "limits": [{"unit": "steps", "count": 10}],
            "precision": "fp32",
            "clip_grad_norm": 0.0,
            "compile": False,
            "recomputed": [],
        },
        "loader": {"num_workers": 0, "prefetch_factor": 2, "pin_memory": False},
        "evaluation": {"every_steps": 5, "metrics": [], "perplexity": False},
        "strategy": {"name": "ddp", "find_unused_parameters": False},
        "ranks": ranks(2),
        "checkpoint": {"every_steps": 5, "keep_last": 2},
        "retries": {
            "node_loss": 3,
            "crash": 1,
            "hang": 1,
            "hang_timeout_s": 600,
            "hang_patience": 0.0,
        },
        "tracking": [],
        "secrets": [],
        "decisions": [],
        "warnings": [],
    }
    return RunPlan.model_validate(values | overrides)
