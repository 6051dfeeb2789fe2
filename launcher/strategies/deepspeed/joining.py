"""Introduces DeepSpeed to the process group that the ranks have; it starts at once and quietly.

What is then trained with it is the strategy's knowledge.
"""

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator

import deepspeed
from deepspeed.runtime import compiler
from pydantic import ValidationError
from torch import Tensor

from launcher.errors import SpecError

_MUON = "deepspeed.runtime.zero.muon.original_muon"


def join() -> None:
    """Called by every rank, before anything else of DeepSpeed's; again, it does no harm."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # Said when the first step overflows in fp16 and is left out.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    # It would compile this operation for 20 s, and only inference uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_muon()
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Around what reads the configuration: what DeepSpeed does not take is an error of the spec."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SpecError(
            f"strategy.config: DeepSpeed does not take {where}: {first['input']!r} "
            f"({first['msg']}); mend it there"
        ) from error
    except AssertionError as error:
        raise SpecError(f"strategy.config: DeepSpeed refuses it: {error}") from error


def require_dimensions(parameters: Iterable[tuple[str, Tensor]], *, of: str) -> None:
    """SpecError for a parameter that is a lone number, which DeepSpeed cannot send to the ranks."""
    for name, parameter in parameters:
        if parameter.dim() == 0:
            raise SpecError(
                f"the parameter {name} of {of} is a number without dimensions, which DeepSpeed "
                "does not take; make it a vector of one, or train with strategy ddp"
            )


def _import_muon() -> None:
    """An optimizer that no spec can name has functions which it marks to be compiled: for that
    alone, the start of the engine would import all of inductor, for 2 s."""
    if _MUON in sys.modules:
        return
    compile_function = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module(_MUON)
    finally:
        compiler.compile = compile_function
