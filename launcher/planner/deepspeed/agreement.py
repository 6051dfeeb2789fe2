"""Where a person's DeepSpeed config and the spec say different things of the same.

Values that are wrong by themselves, and keys that mean nothing, are told in `keys`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.planner.deepspeed.said import (
    ACCUMULATION,
    AUTO,
    AUTOCAST,
    AUTOCAST_DTYPE,
    CONFIG,
    NVME_PATHS,
    SHARED,
    SWITCHES,
    own_config,
    precision_said,
    said,
    said_auto,
    shown,
    zero_stage,
)
from launcher.planner.hardware import pick_world_size
from launcher.resources import Resources as Host
from launcher.spec import JobSpec, Key, Problem, Resources, dotted


def contradictions(spec: JobSpec, complete: JobSpec, host: Host) -> Iterator[Problem]:
    """Each with both of its places; `complete` is the spec with what only the config says."""
    config = own_config(spec.strategy)
    assert spec.strategy
    for shared in SHARED:
        here, there = _at(spec, shared.key), said(config, shared.path)
        if here is not None and shared.fits(there) and here != there:
            yield _differ(shared.key, here, shared.path, there)
    for path in NVME_PATHS:
        here, there = spec.strategy.nvme_path, said(config, path)
        if None not in (here, there) and here != there:
            yield _differ(("strategy", "nvme_path"), here, path, there)
    yield from _precision(spec, config, stage=zero_stage(complete.strategy))
    yield from _accumulation(complete, config, host)
    yield from _optimizer(spec, config)


def _at(spec: JobSpec, key: Key) -> Any:
    return getattr(getattr(spec, str(key[0])), str(key[1]))


def _differ(key: Key, here: Any, path: Key, there: Any) -> Problem:
    other = (*CONFIG, *path)
    return Problem(
        key,
        f"is {shown(here)}, but {dotted(other)} is {shown(there)}; make them agree, or say it in "
        "one place only",
        other=other,
    )


def _precision(spec: JobSpec, config: Mapping[str, Any], *, stage: int) -> Iterator[Problem]:
    key, asked = ("train", "precision"), spec.train.precision
    on = [path for path in SWITCHES if said(config, path) is True]
    for path in on[1:]:
        first = (*CONFIG, *on[0])
        words = f"is true, and {dotted(first)} is, too; keep the one that is meant"
        yield Problem((*CONFIG, *path), words, other=first)
    if len(on) == 1:
        yield from _turned_on(asked, config, on[0])
    elif not on and asked and said(config, (asked, "enabled")) is False:
        yield _differ(key, asked, (asked, "enabled"), False)
    elif not on and asked in ("bf16", "fp16") and said(config, AUTOCAST) is False:
        own_way = asked == "fp16" or said_auto(config, ("bf16", "enabled"))
        if stage == 0 or not own_way:
            yield _differ(key, asked, AUTOCAST, False)


def _turned_on(asked: str | None, config: Mapping[str, Any], on: Key) -> Iterator[Problem]:
    found = precision_said(config)
    if found and asked not in (None, found[0]):
        yield _differ(("train", "precision"), asked, found[1], said(config, found[1]))
    if found or said(config, AUTOCAST_DTYPE) is not None:
        return
    if asked == "fp32":
        yield _differ(("train", "precision"), asked, on, True)
    elif not asked:
        words = "is true, without a dtype; say it here or as train.precision"
        yield Problem((*CONFIG, *on), words)


def _accumulation(complete: JobSpec, config: Mapping[str, Any], host: Host) -> Iterator[Problem]:
    key, steps = (*CONFIG, *ACCUMULATION), said(config, ACCUMULATION)
    asked, batch = complete.resources or Resources(), complete.train.global_batch_size
    if steps is None:
        return
    if isinstance(asked.world_size, list):
        other = ("resources", "world_size")
        words = f"is {steps}, but follows from how many ranks of {dotted(other)} there is room for"
        yield Problem(key, f"{words}; take it away", other=other)
        return
    ranks, _ = pick_world_size(complete.train, asked, host)
    micro = complete.train.micro_batch_size or max(1, batch // ranks)
    if batch % (ranks * micro) == 0 and steps != batch // (ranks * micro):
        other = ("train", "global_batch_size")
        yield Problem(
            key,
            f"is {steps}, but {dotted(other)} is {batch}: with {ranks} ranks and micro-batches of "
            f"{micro} that is {batch // (ranks * micro)}; make them agree, or take this one away",
            other=other,
        )


def _optimizer(spec: JobSpec, config: Mapping[str, Any]) -> Iterator[Problem]:
    """It is the spec's that trains; the same in the config is no harm."""
    target, kind = spec.train.optimizer, said(config, ("optimizer", "type"))
    name = target.target.replace(":", ".").rsplit(".", 1)[-1]
    if kind is not None and str(kind).lower() != name.lower():
        yield _differ(("train", "optimizer", "target"), target.target, ("optimizer", "type"), kind)
    params = said(config, ("optimizer", "params"))
    for param, there in params.items() if isinstance(params, Mapping) else ():
        path = ("optimizer", "params", param)
        if there in (AUTO, None):
            continue
        if param not in target.args:
            other: Key = ("train", "optimizer")
            words = f"is {shown(there)}, and {dotted(other)} has no such argument; take it away"
            yield Problem((*CONFIG, *path), f"{words}, or give both the same", other=other)
        elif target.args[param] != there:
            yield _differ(("train", "optimizer", "args", param), target.args[param], path, there)
