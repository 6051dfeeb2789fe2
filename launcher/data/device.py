"""Moves batches to the rank's device, one batch ahead of the step that needs it.

Unrun on a GPU so far: this machine has none.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def to_device(batch: Any, device: torch.device) -> Any:
    """The same nesting of dicts, lists and tuples, its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def on_device(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    """The batches on the device; on a GPU the next copy runs while this batch computes."""
    if device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(device)
    ahead: list[tuple[Any, torch.cuda.Event]] = []
    for batch in batches:
        with torch.cuda.stream(side):
            ahead.append((to_device(batch, device), side.record_event()))
        if len(ahead) > 1:
            yield _hand_over(*ahead.pop(0))
    for batch, copied in ahead:
        yield _hand_over(batch, copied)


def _hand_over(batch: Any, copied: torch.cuda.Event) -> Any:
    """Makes the current stream wait for the copy, and keeps the allocator from reusing it early."""
    current = torch.cuda.current_stream()
    current.wait_event(copied)
    _record(batch, current)
    return batch


def _record(batch: Any, stream: torch.cuda.Stream) -> None:
    if isinstance(batch, Tensor):
        batch.record_stream(stream)
    elif isinstance(batch, dict):
        for value in batch.values():
            _record(value, stream)
    elif isinstance(batch, list | tuple):
        for value in batch:
            _record(value, stream)
