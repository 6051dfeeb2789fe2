"""Autocast over weights in fp32, as with DDP, or weights in the engine's own 16 bits.

Which of the two is asked for, the engine's configuration says; `planner` makes it.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from launcher.strategies import optimization
from launcher.strategies.deepspeed import layout

_NATIVE = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Which of the two it is, and what follows from it around the engine."""

    def __init__(self, config: dict[str, Any], precision: str, device: torch.device) -> None:
        self._weights = next(
            (dtype for key, dtype in _NATIVE.items() if config.get(key, {}).get("enabled")), None
        )
        self._precision = precision
        self._device = device

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Around a forward and its loss."""
        if self._weights:
            return contextlib.nullcontext()
        return optimization.autocast(self._precision, self._device)

    def adapt(self, model: nn.Module) -> None:
        """Lets a model with weights of 16 bits take batches in fp32."""
        dtype = self._weights
        if dtype is None:
            return

        def cast(value: Any) -> Any:
            floating = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if floating else value

        model.register_forward_pre_hook(
            lambda _, args, kwargs: (tree_map(cast, args), tree_map(cast, kwargs)),
            with_kwargs=True,
        )

    def norm(self, engine: Any, parameters: list[Tensor]) -> Tensor:
        """The total L2 norm of gradients that are whole and summed over the ranks; a scalar."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        scaler = layout.scaler_of(engine)
        return nn.utils.get_total_norm(gradients) / (scaler.get_scale() if scaler else 1.0)

    def scaler_state(self, engine: Any) -> dict[str, Any]:
        """Where the loss is scaled: how, as JSON."""
        scaler = layout.scaler_of(engine)
        if isinstance(scaler, torch.amp.GradScaler):
            return scaler.state_dict()
        known = {} if scaler is None else vars(scaler)
        return {k: v for k, v in known.items() if isinstance(v, bool | int | float)}

    def load_scaler(self, engine: Any, saved: dict[str, Any]) -> None:
        """A state of another kind of scaler is left aside: a fresh one finds its scale again."""
        scaler = layout.scaler_of(engine)
        if scaler is None or saved.keys() != self.scaler_state(engine).keys():
            return
        if isinstance(scaler, torch.amp.GradScaler):
            scaler.load_state_dict(saved)
        else:
            vars(scaler).update(saved)
