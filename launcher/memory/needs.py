"""The words in which memory is told: what was measured of a job, and what a rank needs of what.

How the one follows from the other is `formulas`'.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from launcher.plan import Deepspeed, RunPlan


@dataclass(frozen=True)
class Measured:
    """One training step of a job in one process, in bytes."""

    method: str
    """`fake tensors`, or `real tensors` where the model cannot run with those."""
    samples: int
    """Of the micro-batch that the activations are for."""
    trainable: tuple[int, ...]
    """Elements of each parameter that is trained."""
    trainable_bytes: int
    frozen_bytes: int
    """Parameters that are not trained."""
    buffer_bytes: int
    optimizer_bytes: int
    """The optimizer's state after a step."""
    update_bytes: int
    """What clipping and the optimizer's step take for a moment."""
    profile: tuple[tuple[float, int], ...]
    """(share of the gradients that is there, the most activations beside it) through a forward
    and backward. Activations are all that is no state: inputs and passing gradients too."""
    process_bytes: int
    """The process without the model: Python, torch, the user's modules, the dataset."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        lists = {
            "trainable": tuple(values["trainable"]),
            "profile": tuple((share, size) for share, size in values["profile"]),
        }
        return cls(**{**values, **lists})


def extrapolated(less: Measured, more: Measured, *, samples: int) -> Measured:
    """What a batch of so many would take: activations grow with it evenly."""
    before = dict(less.profile)
    steps = (samples - more.samples) / (more.samples - less.samples)
    grown = ((s, round(n + (n - before.get(s, 0)) * steps)) for s, n in more.profile)
    return replace(more, samples=samples, profile=tuple(grown))


@dataclass(frozen=True)
class Setting:
    """How it would be trained."""

    world_size: int
    on_gpu: bool
    accumulates: bool
    """Over several micro-batches in a step."""
    half: bool = False
    """Weights and gradients have 2 bytes and a master copy of 4: DeepSpeed's own `bf16` and
    `fp16`, not autocast."""
    zero: Mapping[str, Any] = field(default_factory=dict)
    """`zero_optimization` of DeepSpeed's configuration."""


@dataclass(frozen=True)
class Parts:
    """What a moment of training takes on the device, in bytes."""

    parameters: int
    """With the model's buffers."""
    gradients: int
    optimizer: int
    """With master weights."""
    activations: int
    buckets: int = 0
    """What weights and gradients pass through on their way between ranks."""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Need:
    """What a rank needs at its peak, in bytes; of the ranks, that which needs most."""

    strategy: str
    """`ddp`, or `zero-0` to `zero-3`."""
    device: Parts
    offloaded: int
    """In the host's memory instead of the device's."""
    checkpoint: int
    """The copy of the state that is written while training goes on; in the host's memory."""
    process: int

    @property
    def host_bytes(self) -> int:
        """In the host's memory, beside the device's."""
        return self.offloaded + self.checkpoint + self.process

    @property
    def all_bytes(self) -> int:
        """Where device and host are one."""
        return self.device.total + self.host_bytes


def half_precision(plan: RunPlan) -> str:
    """`bf16` or `fp16` where DeepSpeed's configuration makes weights of that; else empty."""
    config = plan.strategy.config if isinstance(plan.strategy, Deepspeed) else {}
    return next((n for n in ("bf16", "fp16") if config.get(n, {}).get("enabled")), "")
