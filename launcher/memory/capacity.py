"""How much memory a rank may take on the hardware that is seen."""

from dataclasses import dataclass

from launcher.memory.needs import Need
from launcher.plan import RunPlan
from launcher.resources import Resources


@dataclass(frozen=True)
class Capacity:
    """For one rank, in bytes."""

    on_gpu: bool
    device_bytes: int
    """Of the smallest GPU, or of the rank's part of the host."""
    host_bytes: int
    """The rank's part of the host's memory."""
    ranks: int
    """That share the host."""
    name: str
    """Of the GPU or the host."""

    def needed(self, need: Need) -> int:
        """Of the device's memory."""
        return need.device.total if self.on_gpu else need.all_bytes

    def holds(self, need: Need) -> bool:
        return self.needed(need) <= self.device_bytes and (
            not self.on_gpu or need.host_bytes <= self.host_bytes
        )


def capacity_of(plan: RunPlan, resources: Resources) -> Capacity:
    """All ranks of the plan are taken to be on this host, as far as it has GPUs for them."""
    on_gpu = plan.ranks.device == "cuda" and bool(resources.gpus)
    ranks = min(plan.ranks.world_size, len(resources.gpus) if on_gpu else plan.ranks.world_size)
    host_bytes = resources.memory_bytes // ranks
    smallest = min(resources.gpus, key=lambda gpu: gpu.memory_bytes) if on_gpu else None
    return Capacity(
        on_gpu=on_gpu,
        device_bytes=smallest.memory_bytes if smallest else host_bytes,
        host_bytes=host_bytes,
        ranks=ranks,
        name=smallest.name if smallest else resources.host,
    )
