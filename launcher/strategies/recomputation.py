"""Trades time for memory: what a module's forward keeps for backward is computed again there.

Which classes of modules, the plan says.
"""

import functools
from collections.abc import Sequence

from torch import nn
from torch.utils.checkpoint import checkpoint

from launcher.errors import SpecError
from launcher.targets import load


def recompute(model: nn.Module, classes: Sequence[str]) -> None:
    """Lets every module of these classes, by import path, keep only its inputs for backward.

    Random numbers of its forward are drawn again the same. SpecError for a class that the model
    has not.
    """
    for path in classes:
        kind = load(path)
        found = [module for module in model.modules() if isinstance(module, kind)]
        if not found:
            raise SpecError(f"train.recompute: the model has no {path}")
        for module in found:
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)
