"""How a run uses this host: ranks, devices, threads, precision, loader processes."""

from collections.abc import Sequence
from typing import Literal

from launcher import plan as planned
from launcher.errors import PreflightError
from launcher.planner.choices import Choices
from launcher.resources import Resources
from launcher.spec import JobSpec, Loader, Train
from launcher.spec import Resources as AskedResources

_MAX_LOADER_WORKERS = 8


def pick_world_size(train: Train, asked: AskedResources, resources: Resources) -> tuple[int, str]:
    """As asked; of a range, the most ranks that have a device each and divide the batch."""
    if isinstance(asked.world_size, int):
        return asked.world_size, ""
    gpus = len(resources.gpus) if asked.gpus_per_rank != 0 else 0
    if asked.world_size is None:
        return (gpus, f"one for each of {gpus} GPUs") if gpus else (1, "no GPU: one rank")
    low, high = asked.world_size
    room = gpus or max(1, resources.cores // (asked.cpus_per_rank or 1))
    dividing = [size for size in range(low, high + 1) if train.global_batch_size % size == 0]
    fitting = [size for size in dividing if size <= room]
    chosen = (fitting[-1:] or dividing[:1] or [low])[0]
    return chosen, f"of {low} to {high}, what {room} places hold"


def plan_ranks(spec: JobSpec, resources: Resources, choices: Choices) -> planned.Ranks:
    asked = spec.resources or AskedResources()
    size, why = pick_world_size(spec.train, asked, resources)
    if why:
        choices.made.append(planned.Decision(key="resources.world_size", value=size, reason=why))
    gpus = len(resources.gpus)
    gpus_per_rank = choices.take(
        "resources.gpus_per_rank", asked.gpus_per_rank, min(1, gpus), f"this host has {gpus} GPUs"
    )
    if gpus_per_rank and size > gpus:
        fewer = f"resources.world_size to {gpus} or " if gpus else ""
        raise PreflightError(
            f"resources.world_size is {size} with a GPU each, and on {resources.host} there are "
            f"{gpus}; set {fewer}resources.gpus_per_rank to 0"
        )
    threads = choices.take(
        "resources.cpus_per_rank",
        asked.cpus_per_rank,
        _most_threads(resources.cores_by_host, size),
        f"{resources.cores} cores for {size} ranks",
    )
    if threads * size > resources.cores:
        choices.warnings.append(
            f"{size} ranks of {threads} threads share {resources.cores} cores; expect it slower"
        )
    low, high = asked.world_size if isinstance(asked.world_size, list) else (size, size)
    return planned.Ranks(
        world_size=size,
        min_world_size=low,
        max_world_size=high,
        device="cuda" if gpus_per_rank else "cpu",
        backend="nccl" if gpus_per_rank else "gloo",
        threads_per_rank=threads,
    )


def _most_threads(cores_by_host: Sequence[int], ranks: int) -> int:
    """The most threads a rank can have when every rank must have its own cores on one host."""
    most = sum(cores_by_host) // ranks
    fitting = (n for n in range(most, 0, -1) if sum(c // n for c in cores_by_host) >= ranks)
    return next(fitting, 1)


def pick_precision(
    train: Train, resources: Resources, ranks: planned.Ranks, choices: Choices
) -> Literal["fp32", "bf16", "fp16"]:
    if ranks.device == "cuda":
        native = all(gpu.native_bf16 for gpu in resources.gpus)
        fastest: Literal["bf16", "fp16", "fp32"] = "bf16" if native else "fp16"
        hardware = resources.gpus[0].name
    else:
        native = resources.cpu_native_bf16
        fastest, hardware = "bf16" if native else "fp32", resources.cpu_name
    chosen = choices.take(
        "train.precision", train.precision, fastest, f"the fastest native to {hardware}"
    )
    if ranks.device == "cpu" and chosen == "fp16" and not resources.cpu_native_fp16:
        choices.warnings.append(
            f"fp16 is not native to {hardware}: far slower than fp32; set train.precision to "
            f"{fastest}"
        )
    if chosen == "bf16" and not native:
        choices.warnings.append(f"bf16 is not native to {hardware}, expect it slower than fp32")
    return chosen


def plan_loader(asked: Loader | None, ranks: planned.Ranks, choices: Choices) -> planned.Loader:
    asked = asked or Loader()
    gpu = ranks.device == "cuda"
    workers = choices.take(
        "data.loader.num_workers",
        asked.num_workers,
        min(_MAX_LOADER_WORKERS, max(0, ranks.threads_per_rank - 1)) if gpu else 0,
        "the cores that the rank leaves" if gpu else "on a CPU the ranks need every core",
    )
    if asked.pin_memory and not gpu:
        choices.warnings.append("data.loader.pin_memory is only of use with a GPU")
    return planned.Loader(
        num_workers=workers,
        prefetch_factor=choices.take(
            "data.loader.prefetch_factor", asked.prefetch_factor, 2, "torch's own default"
        ),
        pin_memory=choices.take(
            "data.loader.pin_memory", asked.pin_memory, gpu, "faster copies to a GPU only"
        ),
    )
