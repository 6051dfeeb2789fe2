"""Which slices of weights and optimizer state ZeRO keeps on this rank, and where.

What is read here is no interface of DeepSpeed's, hence the upper bound of its version; the same
holds for `building` and `joining`, which change what it does.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepspeed.runtime.zero.partition_parameters import (
    PartitionedParamStatus,
    ZeroParamStatus,
)
from torch import Tensor
from torch.optim import Optimizer

from launcher.distributed import Rank
from launcher.strategies.deepspeed.rows import Row, Slice

Names = Mapping[Tensor, str]
"""Of the parameters that are trained."""


def find_rows(engine: Any, names: Names, *, stage: int, rank: Rank) -> tuple[Row, ...]:
    """What the optimizer steps on, on this rank."""
    match stage:
        case 0:
            return tuple(_whole_row(parameter, name) for parameter, name in names.items())
        case 1 | 2:
            return tuple(_rows_of_gradients(engine.optimizer, names))
        case _:
            return tuple(_rows_of_weights(engine.optimizer, names, rank))


def forget_gradients(engine: Any, rows: Sequence[Row]) -> None:
    """After a step: else a parameter without a gradient is moved by that of a step before.

    ZeRO 3, and the optimizer's offload, add to buffers that they do not clear.
    """
    split = getattr(engine.optimizer, "grad_partitions_flat_buffer", None)
    kept = [split, *(row.values.grad for row in rows if not row.whole)]
    for gradients in kept:
        if gradients is not None:
            gradients.zero_()


def innermost(optimizer: Any) -> Optimizer:
    """The torch optimizer in DeepSpeed's wrappers: it may be another than was given to it."""
    while not isinstance(optimizer, Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def scaler_of(engine: Any) -> Any:
    """torch's scaler with stage 0, else ZeRO's own; None where the loss is not scaled."""
    if engine.torch_autocast_z0_gradscaler is not None:
        return engine.torch_autocast_z0_gradscaler
    return getattr(engine.optimizer, "loss_scaler", None) if engine.fp16_enabled() else None


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """Of the whole, also where only a share of it is here."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def share_of(parameter: Any, *, name: str, rank: Rank) -> tuple[Slice, Tensor] | None:
    """Of a parameter that ZeRO 3 splits, what this rank keeps; its values may be padded."""
    share = getattr(parameter, "ds_tensor", None)
    if share is None:
        return None
    piece = _own_slice(name, shape_of(parameter), at=0, size=share.ds_numel, rank=rank)
    if share.status == PartitionedParamStatus.AVAILABLE:
        return piece, share
    parameter.all_gather()  # its share is on a disk
    values = piece.of(parameter.data).clone()
    parameter.partition()
    return piece, values


def take(parameter: Any, saved: Tensor, *, rank: Rank) -> bool:
    """Puts a saved tensor in the place of a parameter that ZeRO 3 splits; False: it does not."""
    share = getattr(parameter, "ds_tensor", None)
    if share is None:
        return False
    if share.status != PartitionedParamStatus.AVAILABLE:  # its share is on a disk
        parameter.all_gather()
        parameter.data.copy_(saved)
        parameter.partition(has_been_updated=True)
        return True
    piece = _own_slice("", shape_of(parameter), at=0, size=share.ds_numel, rank=rank)
    share.narrow(0, 0, piece.count).copy_(piece.of(saved))
    if parameter.ds_status == ZeroParamStatus.AVAILABLE:
        parameter.data.copy_(saved)  # small ones stay whole everywhere
    return True


def _whole_row(parameter: Tensor, name: str) -> Row:
    piece = Slice(name, tuple(parameter.shape), begin=0, at=0, count=parameter.numel())
    return Row(parameter, (name,), (piece,), whole=True)


def _rows_of_gradients(zero: Any, names: Names) -> Iterator[Row]:
    """ZeRO 1 and 2 lay a group's parameters in a row, and give each rank a stretch of it."""
    for group, values in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        slices = []
        for parameter in group:
            if mapping := parameter._hp_mapping:  # None where the stretch has nothing of it
                inside, here = mapping.lp_fragment_address, mapping.hp_fragment_address
                shape = tuple(parameter.shape)
                slices.append(
                    Slice(names[parameter], shape, inside.start, here.start, inside.numel)
                )
        yield Row(values, tuple(names[p] for p in group), tuple(slices))


def _rows_of_weights(zero: Any, names: Names, rank: Rank) -> Iterator[Row]:
    """ZeRO 3 gives each rank an equal share of every parameter, and lays those in rows."""
    rows = zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True)
    for number, (group, values) in enumerate(rows):
        slices = []
        for parameter in group:
            _, at, size = zero.grad_position[zero.get_param_id(parameter)]
            shape = shape_of(parameter)
            slices.append(_own_slice(names[parameter], shape, at=int(at), size=size, rank=rank))
        held = tuple(piece for piece in slices if piece.count)
        yield Row(values, tuple(names[p] for p in group), held, **_access(zero, number))


def _access(zero: Any, row: int) -> dict[str, Any]:
    """How a row that is offloaded to a disk comes into memory."""
    if not zero._swappable_optimizer_subgroup(row):
        return {}

    @contextlib.contextmanager
    def reading() -> Iterator[None]:
        zero._optimizer_states_and_gradient_swap_in(row)
        yield
        zero._release_swap_buffers(row)

    @contextlib.contextmanager
    def writing() -> Iterator[None]:
        zero._optimizer_states_and_gradient_swap_in(row)
        yield
        zero._optimizer_states_and_gradient_swap_out(row)

    return {"on_disk": True, "reading": reading, "writing": writing}


def _own_slice(name: str, shape: tuple[int, ...], *, at: int, size: int, rank: Rank) -> Slice:
    """The share of this rank, without the padding that makes all shares equal."""
    begin = min(rank.rank * size, math.prod(shape))
    return Slice(name, shape, begin, at, min(size, math.prod(shape) - begin))
