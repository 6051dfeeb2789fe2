"""Decides every value that a spec leaves open: a pure function of spec, resources and run id.

No clock, no network, no torch; what is wrong with a spec is said by `problems` before.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from launcher import plan as planned
from launcher.errors import PreflightError
from launcher.plan import Call, RunPlan
from launcher.resources import Resources
from launcher.spec import JobSpec, Loader, Metric, Problem, Target, Train
from launcher.spec import Resources as AskedResources

T = TypeVar("T")

_MODEL_LOSS = "launcher.task:output_loss"
_CONSTANT = "torch.optim.lr_scheduler:ConstantLR"
_METRICS = {"accuracy": "launcher.task:accuracy"}
_MAX_LOADER_WORKERS = 8
_PINNED = ("train.precision", "train.micro_batch_size", "resources.cpus_per_rank", "data.loader")


@dataclass
class _Choices:
    """Collects what was decided for the person, and why."""

    earlier: dict[str, planned.Decision]
    """What was decided for this run before: a resumed run stays as it was."""
    made: list[planned.Decision] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def take(self, key: str, given: T | None, default: T, reason: str) -> T:
        """The given value, or else the earlier decision, or else the default."""
        if given is not None:
            return given
        decision = planned.Decision(key=key, value=default, reason=reason)
        if key in self.earlier:
            decision = self.earlier[key]
        self.made.append(decision)
        return decision.value  # type: ignore[no-any-return]


def problems(spec: JobSpec, resources: Resources) -> Iterator[Problem]:
    """What cannot be, across the fields of a spec."""
    yield from _what_trains(spec)
    if spec.train.max_epochs is None and spec.train.max_steps is None:
        yield Problem(("train",), "has no end: give max_epochs or max_steps")
    loader = spec.data.loader if spec.data else None
    if loader and loader.num_workers == 0 and loader.prefetch_factor is not None:
        yield Problem(
            ("data", "loader", "prefetch_factor"),
            f"is {loader.prefetch_factor}, but num_workers is 0 and nothing is fetched ahead; "
            "take it away or set num_workers to 1 or more",
        )
    asked = spec.resources or AskedResources()
    if isinstance(asked.world_size, list) and asked.world_size[0] > asked.world_size[1]:
        low, high = asked.world_size
        yield Problem(
            ("resources", "world_size"), f"is [{low}, {high}], not [min, max]; try [{high}, {low}]"
        )
    yield from _batch_arithmetic(spec.train, asked, resources)


def make_plan(
    spec: JobSpec,
    resources: Resources,
    *,
    run_id: str,
    storage: str,
    code_dir: str,
    earlier: RunPlan | None = None,
) -> RunPlan:
    """The plan of a spec that has no `problems`.

    `earlier` is the plan of the run that goes on: what it decided about arithmetic stays decided,
    so that the same world size computes the same weights.
    """
    ranks_before = earlier.ranks.world_size if earlier else 0
    asked = spec.resources or AskedResources()
    world_size, _ = _world_size(spec.train, asked, resources)
    kept = {
        decision.key: decision
        for decision in (earlier.decisions if earlier and ranks_before == world_size else ())
        if decision.key.startswith(_PINNED)
    }
    choices = _Choices(earlier=kept)
    ranks = _ranks(spec, resources, choices)
    train = _train(spec, resources, ranks, choices)
    return RunPlan(
        run_id=run_id,
        name=spec.name,
        seed=spec.seed,
        storage=storage,
        code_dir=code_dir,
        task=_task(spec),
        train=train,
        loader=_loader(spec.data.loader if spec.data else None, ranks, choices),
        evaluation=_evaluation(spec, choices),
        strategy=planned.Ddp(
            find_unused_parameters=bool(spec.strategy and spec.strategy.find_unused_parameters)
        ),
        ranks=ranks,
        checkpoint=_checkpoint(spec, choices),
        retries=_retries(spec, choices),
        tracking=_tracking(spec, resources, choices),
        decisions=tuple(choices.made),
        warnings=tuple(choices.warnings),
    )


def _what_trains(spec: JobSpec) -> Iterator[Problem]:
    data = spec.data
    if spec.model and spec.task:
        yield Problem(("task",), "excludes `model`: give exactly one of model and task")
    if not spec.model and not spec.task:
        yield Problem((), "nothing trains: give `model` with `data`, or a `task`")
    if spec.model and not (data and data.train):
        yield Problem(("data",) if data else (), "`model` needs data.train")
    if spec.task and not spec.model:
        for key, present in (
            (("data", "train"), data and data.train),
            (("data", "eval"), data and data.eval),
            (("train", "loss"), spec.train.loss),
        ):
            if present:
                yield Problem(key, "is brought by the `task`; take one of the two away")
    if spec.eval and spec.model and not (data and data.eval):
        yield Problem(("eval",), "has nothing to measure: give data.eval")


def _batch_arithmetic(
    train: Train, asked: AskedResources, resources: Resources
) -> Iterator[Problem]:
    batch = train.global_batch_size
    world_size, _ = _world_size(train, asked, resources)
    if batch % world_size:
        below = batch // world_size * world_size
        sizes = " or ".join(str(size) for size in (below, below + world_size) if size)
        yield Problem(
            ("train", "global_batch_size"),
            f"is {batch}, not a multiple of {world_size} ranks; try {sizes}",
        )
        return
    per_rank, micro = batch // world_size, train.micro_batch_size
    if micro and per_rank % micro:
        fits = [size for size in range(1, per_rank + 1) if per_rank % size == 0]
        near = sorted(sorted(fits, key=lambda size: abs(size - micro))[:2])
        yield Problem(
            ("train", "micro_batch_size"),
            f"is {micro}, which does not divide the {per_rank} samples of each rank; try "
            + " or ".join(map(str, near)),
        )


def _world_size(train: Train, asked: AskedResources, resources: Resources) -> tuple[int, str]:
    """As asked; of a range, the most ranks that have a device each and divide the batch."""
    if isinstance(asked.world_size, int):
        return asked.world_size, ""
    gpus = len(resources.gpus) if asked.gpus_per_rank != 0 else 0
    if asked.world_size is None:
        return (gpus, f"one for each of {gpus} GPUs") if gpus else (1, "no GPU: one rank")
    low, high = asked.world_size
    room = gpus or max(1, resources.cores // (asked.cpus_per_rank or 1))
    fitting = [
        size for size in range(low, min(high, room) + 1) if train.global_batch_size % size == 0
    ]
    return (fitting[-1] if fitting else low), f"of {low} to {high}, what {room} places hold"


def _ranks(spec: JobSpec, resources: Resources, choices: _Choices) -> planned.Ranks:
    asked = spec.resources or AskedResources()
    size, why = _world_size(spec.train, asked, resources)
    if why:
        choices.made.append(planned.Decision(key="resources.world_size", value=size, reason=why))
    gpus = len(resources.gpus)
    gpus_per_rank = choices.take(
        "resources.gpus_per_rank", asked.gpus_per_rank, min(1, gpus), f"this host has {gpus} GPUs"
    )
    if gpus_per_rank and size > gpus:
        raise PreflightError(
            f"resources.world_size is {size} with a GPU each, and {resources.host} has {gpus}; "
            f"set resources.world_size to {max(1, gpus)} or resources.gpus_per_rank to 0"
        )
    threads = choices.take(
        "resources.cpus_per_rank",
        asked.cpus_per_rank,
        max(1, resources.cores // size),
        f"{resources.cores} cores for {size} ranks",
    )
    if threads * size > resources.cores:
        choices.warnings.append(
            f"{size} ranks of {threads} threads share {resources.cores} cores; expect it slower"
        )
    return planned.Ranks(
        world_size=size,
        device="cuda" if gpus_per_rank else "cpu",
        backend="nccl" if gpus_per_rank else "gloo",
        threads_per_rank=threads,
    )


def _train(
    spec: JobSpec, resources: Resources, ranks: planned.Ranks, choices: _Choices
) -> planned.Train:
    train = spec.train
    per_rank = train.global_batch_size // ranks.world_size
    schedule = train.schedule
    limits = {"epochs": train.max_epochs, "steps": train.max_steps}
    return planned.Train(
        optimizer=_call(train.optimizer),
        schedule=planned.Schedule(
            target=schedule.target if schedule else _CONSTANT,
            args=schedule.args if schedule else {"factor": 1.0, "total_iters": 0},
            warmup_steps=schedule.warmup_steps if schedule else 0,
        ),
        global_batch_size=train.global_batch_size,
        micro_batch_size=choices.take(
            "train.micro_batch_size",
            train.micro_batch_size,
            per_rank,
            f"{train.global_batch_size} samples / {ranks.world_size} ranks",
        ),
        limits=tuple(
            planned.Limit(unit=unit, count=count)  # type: ignore[arg-type]  # the keys above
            for unit, count in limits.items()
            if count is not None
        ),
        precision=_precision(train, resources, ranks, choices),
        clip_grad_norm=train.clip_grad_norm or 0.0,
        compile=train.compile,
    )


def _precision(
    train: Train, resources: Resources, ranks: planned.Ranks, choices: _Choices
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


def _loader(asked: Loader | None, ranks: planned.Ranks, choices: _Choices) -> planned.Loader:
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


def _evaluation(spec: JobSpec, choices: _Choices) -> planned.Evaluation:
    metrics = spec.eval.metrics if spec.eval else []
    return planned.Evaluation(
        every_steps=choices.take(
            "eval.every_steps",
            spec.eval.every_steps if spec.eval else None,
            500,
            "often enough to see a trend, and at the end",
        ),
        metrics=tuple(
            _metric(metric) for metric in metrics if metric.target not in ("loss", "perplexity")
        ),
        perplexity=any(metric.target == "perplexity" for metric in metrics),
    )


def _metric(metric: Metric) -> planned.Metric:
    last = metric.target.replace(":", ".").rsplit(".", 1)[-1]
    target = _METRICS.get(metric.target, metric.target)
    return planned.Metric(name=metric.name or last, call=Call(target=target, args=metric.args))


def _task(spec: JobSpec) -> planned.DeclaredTask | planned.CustomTask:
    if spec.task:
        return planned.CustomTask(task=_call(spec.task))
    assert spec.model
    assert spec.data
    assert spec.data.train
    return planned.DeclaredTask(
        model=_call(spec.model),
        train_data=_call(spec.data.train),
        eval_data=(_call(spec.data.eval),) if spec.data.eval else (),
        loss=_call(spec.train.loss) if spec.train.loss else Call(target=_MODEL_LOSS),
    )


def _checkpoint(spec: JobSpec, choices: _Choices) -> planned.Checkpoint:
    asked = spec.checkpoint
    return planned.Checkpoint(
        every_steps=choices.take(
            "checkpoint.every_steps", asked and asked.every_steps, 200, "and one at the end"
        ),
        keep_last=choices.take(
            "checkpoint.keep_last", asked and asked.keep_last, 3, "two to fall back on"
        ),
    )


def _retries(spec: JobSpec, choices: _Choices) -> planned.Retries:
    asked = spec.retries
    defaults: list[tuple[str, Any, str]] = [
        ("node_loss", 3, "hosts and processes get lost"),
        ("crash", 1, "a second crash is hardly bad luck"),
        ("hang", 1, "a second hang is hardly bad luck"),
        ("hang_timeout_s", 300, "longer than a compilation or a slow write"),
    ]
    return planned.Retries(
        **{
            name: choices.take(f"retries.{name}", asked and getattr(asked, name), value, reason)
            for name, value, reason in defaults
        }
    )


def _tracking(spec: JobSpec, resources: Resources, choices: _Choices) -> tuple[planned.Wandb, ...]:
    asked = spec.tracking.wandb if spec.tracking else None
    if asked is None:
        return ()
    mode: Literal["online", "offline"] = "online" if resources.wandb_key else "offline"
    found = "an" if resources.wandb_key else "no"
    return (
        planned.Wandb(
            project=asked.project,
            entity=asked.entity or "",
            mode=choices.take("tracking.wandb.mode", asked.mode, mode, f"{found} API key is here"),
            tags=tuple(asked.tags),
        ),
    )


def _call(target: Target) -> Call:
    return Call(target=target.target, args=target.args)
