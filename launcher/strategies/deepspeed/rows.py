"""Slices of parameters, and the rows in which an optimizer keeps them."""

from dataclasses import dataclass

from torch import Tensor

from launcher.tensor_files import Part


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

    def part(self, piece: Slice, values: Tensor) -> Part:
        """A slice of the row, or of what the optimizer keeps beside it; live."""
        if values.shape == piece.shape:
            return Part(values, piece.shape, 0)
        return Part(values.narrow(0, piece.at, piece.count), piece.shape, piece.begin)

    def fill(self, piece: Slice, values: Tensor, whole: Tensor) -> None:
        """Copies the slice out of a saved tensor into its place in `values`, shaped as the row."""
        place = self.part(piece, values).values.detach()
        place.copy_(piece.of(whole).view_as(place))
