"""What a rank with DeepSpeed's engine gives to a checkpoint, and takes from one.

The form is that of every strategy: whole tensors by their names, so that a run can go on with
another ZeRO stage, another number of ranks or without DeepSpeed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.distributed import Rank
from launcher.errors import SpecError
from launcher.strategies import state
from launcher.strategies.deepspeed import layout
from launcher.strategies.deepspeed.rows import Row
from launcher.tensor_files import Part

_COUNTER = "step"
"""What torch's optimizers count in: never split, whatever its shape."""


class Kept:
    """The state of model and optimizer on this rank."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, rows: tuple[Row, ...], *, rank: Rank
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._rows = rows
        self._rank = rank
        self._trained = {name for row in rows for name in row.names}
        self._shapes = {name: layout.shape_of(p) for name, p in model.named_parameters()}

    def parts(self) -> dict[str, dict[str, Part]]:
        """What is saved: weights in the precision in which the optimizer steps on them."""
        model = self._rest()
        moments: dict[str, Part] = {}
        for row in self._rows:
            with row.reading():
                model |= {piece.name: row.part(piece, row.values) for piece in row.slices}
                for key, value in self._tensors_beside(row):
                    moments |= self._moment_parts(row, key, value)
        return {"model": model, "optimizer": moments}

    def numbers(self) -> dict[str, dict[str, Any]]:
        """What the optimizer knows of each parameter that is no tensor."""
        found: dict[str, dict[str, Any]] = {}
        for row in self._rows:
            beside = self._optimizer.state.get(row.values, {})
            plain = {k: v for k, v in beside.items() if not isinstance(v, Tensor)}
            found |= dict.fromkeys(row.names, plain)
        return found

    @torch.no_grad()
    def load_model(self, saved: Mapping[str, Any]) -> None:
        """Takes weights, buffers and extra state by all of their names.

        SpecError when they are not those of this model.
        """
        own = state.named_tensors(self._model)
        _require_same_shapes(saved, {n: layout.shape_of(tensor) for n, tensor in own.items()})
        for row in self._rows:
            with row.writing():
                for piece in row.slices:
                    row.fill(piece, row.values, saved[piece.name])
        split = {n for n, tensor in own.items() if layout.take(tensor, saved[n], rank=self._rank)}
        rest = {name: value for name, value in saved.items() if name not in split}
        self._model.load_state_dict(rest, strict=False)

    @torch.no_grad()
    def load_moments(
        self, saved: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Takes what the optimizer knew of each parameter, by its name."""
        for row in self._rows:
            with row.writing():
                beside: dict[str, Any] = {}
                for name in row.names:
                    beside |= numbers.get(name, {})
                    for key, value in saved.get(name, {}).items():
                        self._put_beside(row, beside, name=name, key=key, value=value)
                if beside:
                    self._optimizer.state[row.values] = beside

    def _put_beside(
        self, row: Row, beside: dict[str, Any], *, name: str, key: str, value: Tensor
    ) -> None:
        if key == _COUNTER or tuple(value.shape) != self._shapes[name]:
            defaults = self._optimizer.defaults
            counts_on_host = not (defaults.get("fused") or defaults.get("capturable"))
            on_host = key == _COUNTER and counts_on_host  # as torch itself restores it
            beside[key] = value.to("cpu" if on_host else row.values.device, copy=True)
            return
        if key not in beside:
            beside[key] = torch.zeros_like(row.values, dtype=value.dtype)
        for piece in row.slices:
            if piece.name == name:
                row.fill(piece, beside[key], value)

    def _moment_parts(self, row: Row, key: str, value: Tensor) -> dict[str, Part]:
        """Slices of what is shaped as the row; of what is not, the whole, from rank 0."""
        if value.shape == row.values.shape:
            return {state.moment_name(p.name, key): row.part(p, value) for p in row.slices}
        if self._rank.rank == 0:
            return state.whole({state.moment_name(name, key): value for name in row.names})
        return {}

    def _rest(self) -> dict[str, Part]:
        """What the optimizer does not step on: on rank 0, but for shares of split weights."""
        found: dict[str, Part] = {}
        for name, tensor in state.model_tensors(self._model).items():
            if name in self._trained:
                continue
            if share := layout.share_of(tensor, name=name, rank=self._rank):
                piece, values = share
                found[name] = Part(values.narrow(0, 0, piece.count), piece.shape, piece.begin)
            elif self._rank.rank == 0:
                found |= state.whole({name: tensor})
        return found

    def _tensors_beside(self, row: Row) -> Iterator[tuple[str, Tensor]]:
        beside = self._optimizer.state.get(row.values, {})
        return ((key, value) for key, value in beside.items() if isinstance(value, Tensor))


def _require_same_shapes(saved: Mapping[str, Any], own: Mapping[str, tuple[int, ...]]) -> None:
    """Of the tensors; extra state has no shape, and is not here asked for."""
    theirs = {n: tuple(value.shape) for n, value in saved.items() if isinstance(value, Tensor)}
    for name in sorted(theirs.keys() | own.keys()):
        if theirs.get(name) != own.get(name):
            raise SpecError(
                f"the checkpoint's {name} has the shape {theirs.get(name)}, and the model's "
                f"{own.get(name)} (None: there is none); train the model that was saved"
            )
