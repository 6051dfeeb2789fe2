"""What cannot be, across the strategy's fields and the person's DeepSpeed config.

What concerns every strategy is told in `planner.problems`.
"""

from collections.abc import Iterator
from dataclasses import replace

from launcher.planner.deepspeed.agreement import contradictions
from launcher.planner.deepspeed.keys import key_problems
from launcher.planner.deepspeed.said import (
    AUTOCAST,
    AUTOCAST_DTYPE,
    CONFIG,
    DTYPES,
    NVME_PATHS,
    filled,
    own_config,
    said,
    zero_stage,
)
from launcher.resources import Resources
from launcher.spec import JobSpec, Key, Problem, Strategy, dotted

_ONLY_HERE = ("zero_stage", "offload_optimizer", "offload_parameters", "nvme_path", "config")
_STAGE: Key = ("strategy", "zero_stage")


def strategy_problems(spec: JobSpec, resources: Resources) -> Iterator[Problem]:
    """What is wrong with a spec's `strategy`, and with what the config says of other sections."""
    asked = spec.strategy
    if asked is None:
        return
    if asked.name == "ddp":
        for name in _ONLY_HERE:
            if getattr(asked, name) is not None:
                words = f"is for deepspeed, and the strategy's name is {asked.name}"
                fix = "set name to deepspeed, or take it away"
                yield Problem(("strategy", name), f"{words}; {fix}")
        return
    if asked.find_unused_parameters:
        words = "is for ddp; deepspeed takes unused parameters as they come, take it away"
        yield Problem(("strategy", "find_unused_parameters"), words)
    complete = filled(spec, resources)
    yield from key_problems(own_config(asked))
    yield from contradictions(spec, complete.spec, resources)
    for problem in _across(complete.spec):
        yield replace(problem, key=complete.sources.get(problem.key, problem.key))


def _across(spec: JobSpec) -> Iterator[Problem]:
    assert spec.strategy
    stage = zero_stage(spec.strategy)
    yield from _offloading(spec.strategy, stage)
    yield from _precision(spec, stage)


def _offloading(asked: Strategy, stage: int) -> Iterator[Problem]:
    optimizer, parameters = asked.offload_optimizer, asked.offload_parameters
    if optimizer in ("cpu", "nvme") and stage == 0:
        words = f"is {optimizer}, and with zero_stage 0 nothing is split or offloaded"
        yield Problem(("strategy", "offload_optimizer"), f"{words}; set zero_stage to 1 or more")
    elif optimizer == "nvme" and stage < 3:
        words = f"is nvme, which needs zero_stage 3, and that is {stage}"
        yield Problem(("strategy", "offload_optimizer"), f"{words}; set it to 3, or offload to cpu")
    if parameters in ("cpu", "nvme") and stage < 3:
        words = f"is {parameters}, which needs zero_stage 3, and that is {stage}"
        yield Problem(("strategy", "offload_parameters"), f"{words}; set it to 3")
    config = own_config(asked)
    devices = ((optimizer, "offload_optimizer"), (parameters, "offload_parameters"))
    for (device, name), path in zip(devices, NVME_PATHS, strict=True):
        if device == "nvme" and not (asked.nvme_path or said(config, path)):
            words = "is nvme, and there is no nvme_path; give one, a folder on a fast local disk"
            yield Problem(("strategy", name), words)
    if asked.nvme_path and "nvme" not in (optimizer, parameters):
        words = f"is {asked.nvme_path}, and nothing is offloaded to nvme; take it away"
        yield Problem(("strategy", "nvme_path"), words)


def _precision(spec: JobSpec, stage: int) -> Iterator[Problem]:
    config = own_config(spec.strategy)
    for name in ("bf16", "fp16"):
        path: Key = (*CONFIG, name, "enabled")
        if stage == 0 and said(config, (name, "enabled")) is True:
            words = f"is true, which needs ZeRO, and {dotted(_STAGE)} is 0"
            fix = f"take it away and set train.precision to {name}, which is autocast"
            yield Problem(path, f"{words}; set that to 1 or more, or {fix}", other=_STAGE)
    dtype = said(config, AUTOCAST_DTYPE)
    low = DTYPES.get(dtype) if isinstance(dtype, str) else spec.train.precision
    if stage > 0 and said(config, AUTOCAST) is True and low == "fp16":
        words = "is true with float16, whose loss scaling does not know of split gradients"
        yield Problem((*CONFIG, *AUTOCAST), f"{words}; say train.precision: fp16 instead")
    gradients = said(config, ("data_types", "grad_accum_dtype"))
    narrow = any(said(config, (name, "enabled")) is True for name in ("bf16", "fp16"))
    if gradients is not None and (stage == 0 or (stage == 1 and narrow)):
        words = f"is {gradients}, which needs zero_stage 2 or 3, and that is {stage}; set it to 2"
        yield Problem((*CONFIG, "data_types", "grad_accum_dtype"), words)
