"""Which slices of weights and optimizer state ZeRO keeps on this rank, and where.

The one place that reads DeepSpeed's own attributes, hence the upper bound of its version.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor, nn

from launcher.distributed import Rank
from launcher.strategies.deepspeed.rows import Row, Slice

Names = Mapping[nn.Parameter, str]
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


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """Of the whole, also where only a share of it is here."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def share_of(parameter: Tensor, *, name: str, rank: Rank) -> tuple[Slice, Tensor] | None:
    """Of a parameter that ZeRO 3 splits, what this rank keeps; its values may be padded."""
    share = getattr(parameter, "ds_tensor", None)
    if share is None:
        return None
    piece = _own_slice(name, shape_of(parameter), at=0, size=share.numel(), rank=rank)
    return piece, share


def take(parameter: Tensor, saved: Tensor, *, rank: Rank) -> bool:
    """Puts a saved tensor in the place of a parameter that ZeRO 3 splits; False: it does not."""
    share = share_of(parameter, name="", rank=rank)
    if share is None:
        return False
    piece, values = share
    values.narrow(0, 0, piece.count).copy_(piece.of(saved))
    if (
        vars(parameter)["ds_status"] == ZeroParamStatus.AVAILABLE
    ):  # small ones stay whole everywhere
        parameter.data.copy_(saved)
    return True


def _whole_row(parameter: nn.Parameter, name: str) -> Row:
    piece = Slice(name, tuple(parameter.shape), begin=0, at=0, count=parameter.numel())
    return Row(parameter, (name,), (piece,))


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
    for group, values in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
        slices = []
        for parameter in group:
            _, at, size = zero.grad_position[zero.get_param_id(parameter)]
            shape = shape_of(parameter)
            slices.append(_own_slice(names[parameter], shape, at=int(at), size=size, rank=rank))
        held = tuple(piece for piece in slices if piece.count)
        yield Row(values, tuple(names[p] for p in group), held)


def _own_slice(name: str, shape: tuple[int, ...], *, at: int, size: int, rank: Rank) -> Slice:
    """The share of this rank, without the padding that makes all shares equal."""
    begin = min(rank.rank * size, math.prod(shape))
    return Slice(name, shape, begin, at, min(size, math.prod(shape) - begin))
