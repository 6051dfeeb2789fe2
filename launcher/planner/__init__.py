"""Decides every value that a spec leaves open: a pure function of spec, resources and run id.

No clock, no network, no torch. `problems` says first what cannot be.
"""

from typing import Any, Literal

from launcher import plan as planned
from launcher.plan import Call, RunPlan
from launcher.planner.choices import Choices
from launcher.planner.continuing import changes_refused
from launcher.planner.deepspeed import filled, plan_deepspeed
from launcher.planner.hardware import (
    pick_precision,
    pick_world_size,
    plan_loader,
    plan_ranks,
)
from launcher.planner.problems import ALWAYS_MEASURED, PERPLEXITY, metric_name, problems
from launcher.planner.resizing import resized, world_sizes
from launcher.resources import Resources
from launcher.spec import JobSpec, Strategy, Target
from launcher.spec import Resources as AskedResources

__all__ = ["changes_refused", "make_plan", "problems", "resized", "world_sizes"]

_MODEL_LOSS = "launcher.task:output_loss"
_CONSTANT = "torch.optim.lr_scheduler:ConstantLR"
_METRICS = {"accuracy": "launcher.task:accuracy"}
_HANG_PATIENCE = 10.0
_PINNED = ("train.precision", "train.micro_batch_size", "resources.cpus_per_rank", "data.loader")


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
    complete = filled(spec, resources)
    spec = complete.spec
    choices = Choices(earlier=_kept(spec, resources, earlier), made=list(complete.decisions))
    ranks = plan_ranks(spec, resources, choices)
    train = _train(spec, resources, ranks, choices)
    return RunPlan(
        run_id=run_id,
        name=spec.name,
        seed=spec.seed,
        storage=storage,
        code_dir=code_dir,
        task=_task(spec),
        train=train,
        loader=plan_loader(spec.data.loader if spec.data else None, ranks, choices),
        evaluation=_evaluation(spec, choices),
        strategy=_strategy(spec.strategy or Strategy(), train, ranks, choices),
        ranks=ranks,
        checkpoint=_checkpoint(spec, choices),
        retries=_retries(spec, choices),
        tracking=_tracking(spec, resources, choices),
        secrets=tuple(spec.secrets),
        decisions=tuple(choices.made),
        warnings=tuple(choices.warnings),
    )


def _kept(
    spec: JobSpec, resources: Resources, earlier: RunPlan | None
) -> dict[str, planned.Decision]:
    """The earlier decisions that stand; at another world size, none."""
    asked = spec.resources or AskedResources()
    world_size, _ = pick_world_size(spec.train, asked, resources)
    if earlier is None or earlier.ranks.world_size != world_size:
        return {}
    return {
        decision.key: decision for decision in earlier.decisions if decision.key.startswith(_PINNED)
    }


def _train(
    spec: JobSpec, resources: Resources, ranks: planned.Ranks, choices: Choices
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
            planned.Limit(unit=unit, count=count)
            for unit, count in limits.items()
            if count is not None
        ),
        precision=pick_precision(train, resources, ranks, choices),
        clip_grad_norm=train.clip_grad_norm or 0.0,
        compile=train.compile,
        recomputed=tuple(train.recompute),
    )


def _strategy(
    asked: Strategy, train: planned.Train, ranks: planned.Ranks, choices: Choices
) -> planned.Ddp | planned.Deepspeed:
    match asked.name:
        case "ddp":
            return planned.Ddp(find_unused_parameters=asked.find_unused_parameters)
        case "deepspeed":
            return plan_deepspeed(asked, train, ranks, choices)


def _evaluation(spec: JobSpec, choices: Choices) -> planned.Evaluation:
    metrics = spec.eval.metrics if spec.eval else []
    return planned.Evaluation(
        every_steps=choices.take(
            "eval.every_steps",
            spec.eval.every_steps if spec.eval else None,
            500,
            "often enough to see a trend, and at the end",
        ),
        metrics=tuple(
            planned.Metric(
                name=metric_name(metric),
                call=Call(target=_METRICS.get(metric.target, metric.target), args=metric.args),
            )
            for metric in metrics
            if metric.target not in (*ALWAYS_MEASURED, PERPLEXITY)
        ),
        perplexity=any(metric.target == PERPLEXITY for metric in metrics),
    )


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


def _checkpoint(spec: JobSpec, choices: Choices) -> planned.Checkpoint:
    asked = spec.checkpoint
    return planned.Checkpoint(
        every_steps=choices.take(
            "checkpoint.every_steps", asked and asked.every_steps, 200, "and one at the end"
        ),
        keep_last=choices.take(
            "checkpoint.keep_last", asked and asked.keep_last, 3, "two to fall back on"
        ),
    )


def _retries(spec: JobSpec, choices: Choices) -> planned.Retries:
    asked = spec.retries
    defaults: list[tuple[str, Any, str]] = [
        ("node_loss", 3, "hosts and processes get lost"),
        ("crash", 1, "a second crash is hardly bad luck"),
        ("hang", 1, "a second hang is hardly bad luck"),
        ("hang_timeout_s", 45, "or 10 times the longest pause of a run whose steps are slow"),
    ]
    learns = asked is None or asked.hang_timeout_s is None
    return planned.Retries(
        hang_patience=_HANG_PATIENCE if learns else 0.0,
        **{
            name: choices.take(f"retries.{name}", asked and getattr(asked, name), value, reason)
            for name, value, reason in defaults
        },
    )


def _tracking(spec: JobSpec, resources: Resources, choices: Choices) -> tuple[planned.Wandb, ...]:
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
