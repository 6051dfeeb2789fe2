"""Whether a host has the memory for what its ranks offload to it. Pure."""

import math
from typing import Any

from torch import nn

from launcher.distributed import Rank
from launcher.errors import PreflightError
from launcher.strategies.deepspeed.layout import shape_of

_OPTIMIZER_BYTES = 16
"""Of an element: weight, gradient and two moments in fp32 (arXiv:2101.06840, section 4)."""
_GIB = 1 << 30


def require_room(
    config: dict[str, Any], model: nn.Module, *, rank: Rank, host_memory_bytes: int
) -> None:
    """PreflightError when the optimizer's state or the weights of this host's ranks do not fit."""
    zero = config["zero_optimization"]
    trained = [p for p in model.parameters() if p.requires_grad]
    split_by = rank.world_size / rank.local_world_size
    here = {
        "offload_optimizer": _OPTIMIZER_BYTES * sum(math.prod(shape_of(p)) for p in trained),
        "offload_param": sum(math.prod(shape_of(p)) * p.itemsize for p in model.parameters()),
    }
    on_cpu = [key for key in here if zero.get(key, {}).get("device") == "cpu"]
    needed_bytes = sum(here[key] for key in on_cpu) / split_by
    if needed_bytes > host_memory_bytes:
        raise PreflightError(
            f"{' and '.join(on_cpu)} to the CPU takes {needed_bytes / _GIB:.1f} GiB of this host's "
            f"memory, and it has {host_memory_bytes / _GIB:.1f} GiB; set "
            "zero_stage to 3 and offload to nvme, or train with more hosts"
        )
