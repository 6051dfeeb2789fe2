"""The memory that a rank needs, for people and for programs; how much that is, is `memory`'s."""

from dataclasses import asdict
from typing import Any

from launcher.cli.wording import columns
from launcher.memory import Capacity, Estimate, Need
from launcher.packing import size_text

_DEVICE = ("weights", "gradients", "optimizer", "activations", "buckets")
_HOST = ("offloaded", "checkpoint", "process")
_GIB = 1 << 30


def memory_text(estimate: Estimate) -> str:
    """A line for each strategy, `->` before the plan's, and what would do where it does not fit."""
    capacity = estimate.capacity
    if estimate.absent or capacity is None:
        return f"no estimate of memory: {estimate.absent}"
    head = ("", "", *_DEVICE, *(_HOST if not capacity.on_gpu else ()), "in all", "")
    rows = [_row(need, estimate, capacity) for need in estimate.needs]
    table = columns([head, *rows])
    return "\n".join([_title(estimate, capacity), table, *_verdict(estimate, capacity)])


def memory_values(estimate: Estimate) -> dict[str, Any]:
    """The same as values."""
    capacity = estimate.capacity
    if estimate.absent or capacity is None:
        return {"absent": estimate.absent}
    return {
        "absent": "",
        "method": estimate.method,
        "samples": estimate.samples,
        "capacity": asdict(capacity),
        "strategies": [
            {
                "strategy": need.strategy,
                "chosen": need.strategy == estimate.chosen,
                **{f"{part}_bytes": size for part, size in asdict(need.device).items()},
                "offloaded_bytes": need.offloaded,
                "checkpoint_bytes": need.checkpoint,
                "process_bytes": need.process,
                "device_bytes": capacity.needed(need),
                "host_bytes": need.host_bytes,
                "fits": capacity.holds(need),
            }
            for need in estimate.needs
        ],
        "advice": list(estimate.advice),
    }


def _title(estimate: Estimate, capacity: Capacity) -> str:
    what = f"memory of a rank at its peak, {estimate.samples} samples at a time"
    if capacity.on_gpu:
        where = f"{_size(capacity.device_bytes)} of {capacity.name}"
    else:
        where = f"{_size(capacity.device_bytes)}, of {capacity.name} / {capacity.ranks} ranks"
    return f"{what} (by {estimate.method}); there is {where}"


def _row(need: Need, estimate: Estimate, capacity: Capacity) -> tuple[str, ...]:
    host = () if capacity.on_gpu else (need.offloaded, need.checkpoint, need.process)
    beside = f", and {_size(need.host_bytes)} of the host" if capacity.on_gpu else ""
    return (
        "->" if need.strategy == estimate.chosen else "  ",
        need.strategy,
        *(_size(size) for size in (*asdict(need.device).values(), *host)),
        _size(capacity.needed(need)) + beside,
        "fits" if capacity.holds(need) else "too much",
    )


def _verdict(estimate: Estimate, capacity: Capacity) -> list[str]:
    if any(capacity.holds(n) for n in estimate.needs if n.strategy == estimate.chosen):
        return []
    if not estimate.advice:
        return [f"{estimate.chosen} does not fit, nor would another strategy or a smaller batch"]
    advice = [f"  {line}" for line in estimate.advice]
    return [f"{estimate.chosen} does not fit; one of these would:", *advice]


def _size(size_bytes: int) -> str:
    if size_bytes >= _GIB:
        return f"{size_bytes / _GIB:.2f} GiB"
    return size_text(size_bytes) if size_bytes else "-"
