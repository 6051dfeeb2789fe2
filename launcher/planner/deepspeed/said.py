"""What a person's DeepSpeed config says about that for which the spec has a field of its own.

Whether the two agree is told in `agreement`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from launcher.plan import Decision
from launcher.planner.hardware import pick_world_size
from launcher.resources import Resources as Host
from launcher.spec import JobSpec, Key, Resources, Strategy, dotted

AUTO = "auto"
"""Hugging Face's word for a value that is to be as it is said elsewhere."""
DEFAULT_STAGE = 2
CONFIG: Key = ("strategy", "config")
ACCUMULATION: Key = ("gradient_accumulation_steps",)
AUTOCAST: Key = ("torch_autocast", "enabled")
SWITCHES: tuple[Key, ...] = (("bf16", "enabled"), ("fp16", "enabled"), AUTOCAST)
"""Each turns a low precision on."""
AUTOCAST_DTYPE: Key = ("torch_autocast", "dtype")
DTYPES: Mapping[Any, Literal["bf16", "fp16"]] = {
    **dict.fromkeys(("bfloat16", "torch.bfloat16", "bf16"), "bf16"),
    **dict.fromkeys(("float16", "torch.float16", "fp16", "half"), "fp16"),
}
DEVICES = ("none", "cpu", "nvme")
_OPTIMIZER: Key = ("zero_optimization", "offload_optimizer")
_PARAMETERS: Key = ("zero_optimization", "offload_param")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_stage(value: Any) -> bool:
    return type(value) is int and value in (0, 1, 2, 3)


@dataclass(frozen=True)
class Shared:
    """A value that both the spec and the config can say."""

    key: Key
    """Where in the spec."""
    path: Key
    """Where in the config."""
    fits: Callable[[Any], bool]
    must: str
    """What the config's value must be, to fit."""
    nothing: Any = None
    """The config's word for what the spec leaves out."""


SHARED = (
    Shared(("train", "global_batch_size"), ("train_batch_size",), is_count, "be an integer over 0"),
    Shared(
        ("train", "micro_batch_size"),
        ("train_micro_batch_size_per_gpu",),
        is_count,
        "be an integer over 0",
    ),
    Shared(
        ("train", "clip_grad_norm"),
        ("gradient_clipping",),
        lambda value: _is_number(value) and value >= 0,
        "be a number of at least 0",
        nothing=0,
    ),
    Shared(
        ("strategy", "zero_stage"),
        ("zero_optimization", "stage"),
        _is_stage,
        "be from 0 to 3",
    ),
    Shared(
        ("strategy", "offload_optimizer"),
        (*_OPTIMIZER, "device"),
        DEVICES.__contains__,
        "be none, cpu or nvme",
        nothing="none",
    ),
    Shared(
        ("strategy", "offload_parameters"),
        (*_PARAMETERS, "device"),
        DEVICES.__contains__,
        "be none, cpu or nvme",
        nothing="none",
    ),
)
NVME_PATHS: tuple[Key, ...] = ((*_OPTIMIZER, "nvme_path"), (*_PARAMETERS, "nvme_path"))


def shown(value: Any) -> str:
    """The value as YAML would have it."""
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def own_config(strategy: Strategy | None) -> Mapping[str, Any]:
    """The person's config; a name of a file is left only where its key was misspelt."""
    found = strategy.config if strategy and strategy.name == "deepspeed" else None
    return found if isinstance(found, dict) else {}


def zero_stage(strategy: Strategy | None) -> int:
    """That of the spec, or the default."""
    given = strategy.zero_stage if strategy else None
    return DEFAULT_STAGE if given is None else given


def said(config: Mapping[str, Any], path: Key) -> Any:
    """The value at a path of the config; `None` where it leaves that to the spec."""
    value = _at(config, path)
    return None if value == AUTO else value


def said_auto(config: Mapping[str, Any], path: Key) -> bool:
    """Whether the config leaves the value at a path to the spec in so many words."""
    return bool(_at(config, path) == AUTO)


def _at(config: Mapping[str, Any], path: Key) -> Any:
    value: Any = config
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def precision_said(config: Mapping[str, Any]) -> tuple[Literal["bf16", "fp16"], Key] | None:
    """The precision that the config turns on, and where."""
    if said(config, ("bf16", "enabled")) is True:
        return "bf16", ("bf16", "enabled")
    if said(config, ("fp16", "enabled")) is True:
        return "fp16", ("fp16", "enabled")
    dtype = said(config, AUTOCAST_DTYPE)
    if said(config, AUTOCAST) is True and isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype], AUTOCAST_DTYPE
    return None


def _turned_off(config: Mapping[str, Any]) -> Key | None:
    """Where the config turns low precision off, and leaves no other way to it open."""
    if any(said_auto(config, way) or said(config, way) is True for way in SWITCHES):
        return None
    return next((way for way in SWITCHES if said(config, way) is False), None)


@dataclass(frozen=True)
class Filled:
    """A spec in which what it left open is as the config says."""

    spec: JobSpec
    sources: Mapping[Key, Key]
    """By key of the spec that was filled, where the config says it."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(
            Decision(
                key=dotted(key),
                value=getattr(getattr(self.spec, str(key[0])), str(key[1])),
                reason=f"as {dotted(source)} says",
            )
            for key, source in self.sources.items()
        )


def filled(spec: JobSpec, host: Host) -> Filled:
    """The spec with the values that only the config says."""
    config = own_config(spec.strategy)
    values: dict[Key, tuple[Any, Key]] = {}
    for shared in SHARED:
        value = said(config, shared.path)
        if value not in (None, shared.nothing) and shared.fits(value):
            values[shared.key] = value, shared.path
    if on := precision_said(config):
        values["train", "precision"] = on
    elif off := _turned_off(config):
        values["train", "precision"] = "fp32", off
    if micro := _accumulated(spec, config, host):
        values.setdefault(("train", "micro_batch_size"), (micro, ACCUMULATION))
    sources: dict[Key, Key] = {}
    for (section, name), (value, path) in values.items():
        part = getattr(spec, str(section))
        if getattr(part, str(name)) is None:
            part = part.model_copy(update={str(name): value})
            spec = spec.model_copy(update={str(section): part})
            sources[section, name] = (*CONFIG, *path)
    return Filled(spec, sources)


def _accumulated(spec: JobSpec, config: Mapping[str, Any], host: Host) -> int | None:
    """The micro-batch that so many steps of accumulation leave, if they divide the batch."""
    steps, asked = said(config, ACCUMULATION), spec.resources or Resources()
    ranks, _ = pick_world_size(spec.train, asked, host)
    batch = spec.train.global_batch_size
    fits = is_count(steps) and batch % (ranks * steps) == 0
    return batch // (ranks * steps) if fits and not isinstance(asked.world_size, list) else None
