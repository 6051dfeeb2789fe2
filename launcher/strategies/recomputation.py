"""Trades time for memory: what a module's forward keeps for backward is computed again there.

Which classes of modules, the plan says.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from launcher.errors import SpecError
from launcher.targets import load

_SHOWN = 8


def recompute(model: nn.Module, classes: Sequence[str]) -> None:
    """Lets every module of these classes, by import path, keep only its inputs for backward.

    Random numbers of its forward are drawn again the same, and BatchNorm counts a batch once.
    SpecError for what is no class of a module that the model has.
    """
    for path in classes:
        for module in _modules_of(model, path):
            module.forward = functools.partial(
                checkpoint,
                module.forward,
                use_reentrant=False,
                context_fn=functools.partial(_contexts, module),
            )


def _modules_of(model: nn.Module, path: str) -> list[nn.Module]:
    kind = load(path)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise SpecError(f"train.recompute: {path} is no class of modules; name one of the model's")
    if found := [module for module in model.modules() if isinstance(module, kind)]:
        return found
    has = dict.fromkeys(f"{type(m).__module__}:{type(m).__name__}" for m in model.modules())
    names = ", ".join(list(has)[:_SHOWN])
    raise SpecError(f"train.recompute: the model has no {path}; it has {names}")


def _contexts(
    module: nn.Module,
) -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    """Around the forward, and around its repetition."""
    return contextlib.nullcontext(), _on_copied_statistics(module)


@contextlib.contextmanager
def _on_copied_statistics(module: nn.Module) -> Iterator[None]:
    """What BatchNorm adds to its running values goes nowhere."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update(
            {name: b.clone() for name, b in norm._buffers.items() if b is not None}
        )
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
