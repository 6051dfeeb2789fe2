"""Builds a model of which each rank keeps its share only, for ZeRO 3.

What the engine then does with the shares is `layout`'s knowledge.
"""

import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from launcher.strategies.deepspeed.joining import join, refusals, require_dimensions


@contextlib.contextmanager
def in_shares(config: dict[str, Any]) -> Iterator[None]:
    """Around the building of a model; called by every rank, and each must build the same.

    A module's weights are drawn as anywhere, on the CPU in fp32, and split when its `__init__` is
    over. Code that reads or sets them later finds them whole.
    """
    join()
    collects = gc.isenabled()
    gc.disable()  # when a view is gone must not depend on a rank's own collections
    try:
        with refusals(), _Shares(config), _WholeWeights():
            yield
    finally:
        if collects:
            gc.enable()


class _Shares(deepspeed.zero.Init):  # type: ignore[misc]
    """Splits what a module has, once it is initialized."""

    def __init__(self, config: dict[str, Any]) -> None:
        zero = {**config["zero_optimization"], "override_module_apply": False}
        super().__init__(
            config_dict_or_path={**config, "zero_optimization": zero}, tensor_overrides=()
        )

    def _post_init_method(self, module: nn.Module) -> None:
        with torch._C.DisableTorchFunction():
            require_dimensions(module.named_parameters(recurse=False), of=type(module).__name__)
            if self.dtype != torch.float32:
                self._convert(module)
            super()._post_init_method(module)

    def _convert(self, module: nn.Module) -> None:
        """To the engine's own 16 bits, what is not split yet."""
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point() and not hasattr(tensor, "ds_id"):
                tensor.data = tensor.data.to(self.dtype)


class _WholeWeights(TorchFunctionMode):
    """Gathers split weights for every operation on them, and splits them again after it.

    They stay whole as long as there is a view of them, such as their `.data`. Every rank gathers
    the same, in the same order: what decides is which Python objects are alive.
    """

    def __init__(self) -> None:
        super().__init__()
        self._whole: list[_Gathered] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        used = [v for v in tree_leaves((args, kwargs or {})) if isinstance(v, nn.Parameter)]
        self._split_unused(used)
        for parameter in {id(p): p for p in used if _is_split(p)}.values():
            self._whole.append(_Gathered(parameter))
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result) if self._whole else ():
            if isinstance(value, Tensor):
                for gathered in self._whole:
                    gathered.note(value)
        return result

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]  # torch declares no types
        for gathered in self._whole:
            gathered.split()

    def _split_unused(self, used: list[nn.Parameter]) -> None:
        staying = []
        for gathered in self._whole:
            if gathered.has_views() or any(gathered.parameter is p for p in used):
                staying.append(gathered)
            else:
                gathered.split()
        self._whole = staying


class _Gathered:
    """A parameter that is whole for now, and the views of it that are in somebody's hands."""

    def __init__(self, parameter: Any) -> None:
        parameter.all_gather()
        self.parameter = parameter
        self._views: list[weakref.ref[Tensor]] = []

    def note(self, value: Tensor) -> None:
        """Remembers a value that shares the parameter's memory."""
        if value is not self.parameter and _memory(value) == _memory(self.parameter):
            self._views.append(weakref.ref(value))

    def has_views(self) -> bool:
        return any(view() is not None for view in self._views)

    def split(self) -> None:
        """Leaves this rank its share, as it is now."""
        self.parameter.partition(has_been_updated=True)


def _is_split(parameter: Any) -> bool:
    return getattr(parameter, "ds_status", None) is ZeroParamStatus.NOT_AVAILABLE


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
