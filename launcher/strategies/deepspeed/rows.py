"""Slices of parameters, and the rows in which an optimizer keeps them.

Which those are on this rank, `layout` finds out.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor

from launcher.tensor_files import Part

Access = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Slice:
    """Elements [begin, begin + count) of a flattened parameter, at [at, at + count) of a row."""

    name: str
    shape: tuple[int, ...]
    """Of the parameter."""
    begin: int
    at: int
    count: int

    def of(self, whole: Tensor) -> Tensor:
        """This slice of the parameter, or of what is saved for it; of one dimension."""
        return whole.reshape(-1).narrow(0, self.begin, self.count)


@dataclass(frozen=True)
class Row:
    """A tensor that the optimizer steps on: slices of parameters, one after another."""

    values: Tensor
    names: tuple[str, ...]
    """Of all parameters of which some rank has a slice in this row."""
    slices: tuple[Slice, ...]
    whole: bool = False
    """Whether it is one parameter, in the parameter's own shape."""
    on_disk: bool = False
    """Whether the row, and what the optimizer keeps beside it, is in memory only within these."""
    reading: Access = contextlib.nullcontext
    writing: Access = contextlib.nullcontext

    def part(self, piece: Slice, values: Tensor) -> Part:
        """A slice of the row, or of what the optimizer keeps beside it; live, or off the disk."""
        held = self._place(piece, values)
        begin = 0 if self.whole else piece.begin
        return Part(held.clone() if self.on_disk else held, piece.shape, begin)

    def fill(self, piece: Slice, values: Tensor, whole: Tensor) -> None:
        """Copies the slice out of a saved tensor into its place in `values`, shaped as the row."""
        place = self._place(piece, values).detach()
        place.copy_(piece.of(whole).view_as(place))

    def _place(self, piece: Slice, values: Tensor) -> Tensor:
        return values if self.whole else values.narrow(0, piece.at, piece.count)
