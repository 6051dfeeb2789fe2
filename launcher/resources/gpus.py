"""What is known of a GPU, and whether this host may have any; asking the driver is `nvml`'s."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """One GPU that CUDA would show to this process."""

    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]

    @property
    def native_bf16(self) -> bool:
        """Whether bfloat16 has its own arithmetic units (Ampere and later)."""
        return self.compute_capability >= (8, 0)


def has_driver() -> bool:
    """Whether an NVIDIA driver is loaded: its control device is there (under WSL, Windows')."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
