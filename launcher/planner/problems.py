"""What cannot be, across the fields of a spec.

Each field by itself was checked when it was read, by `specfile`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from launcher.planner.deepspeed import filled, strategy_problems
from launcher.planner.hardware import pick_world_size
from launcher.resources import Resources
from launcher.spec import JobSpec, Metric, Problem, Train
from launcher.spec import Resources as AskedResources

ALWAYS_MEASURED = ("loss",)
PERPLEXITY = "perplexity"


def metric_name(metric: Metric) -> str:
    """Its name after `eval_`: as given, or the last part of its target."""
    return metric.name or metric.target.replace(":", ".").rsplit(".", 1)[-1]


def problems(spec: JobSpec, resources: Resources) -> Iterator[Problem]:
    """What cannot be, across the fields of a spec."""
    yield from strategy_problems(spec, resources)
    complete = filled(spec, resources)
    for problem in _across(complete.spec, resources):
        yield replace(problem, key=complete.sources.get(problem.key, problem.key))


def _across(spec: JobSpec, resources: Resources) -> Iterator[Problem]:
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
    else:
        yield from _batch_arithmetic(spec.train, asked, resources)
    yield from _metric_names(spec.eval.metrics if spec.eval else ())


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
    if spec.task and spec.eval and spec.eval.metrics:
        yield Problem(
            ("eval", "metrics"), "are what the `task`'s evaluate returns; take them away here"
        )
    if spec.eval and spec.model and not (data and data.eval):
        yield Problem(("eval",), "has nothing to measure: give data.eval")


def _metric_names(metrics: Sequence[Metric]) -> Iterator[Problem]:
    taken: set[str] = set(ALWAYS_MEASURED)
    for number, metric in enumerate(metrics):
        key = ("eval", "metrics", number)
        name = metric_name(metric)
        if metric.target in (*ALWAYS_MEASURED, PERPLEXITY):
            if metric.name or metric.args:
                yield Problem(key, f"{metric.target!r} takes neither a name nor args")
        elif name in taken:
            yield Problem(key, f"is the second that is named {name!r}; give it another `name`")
        elif name == PERPLEXITY:
            yield Problem(key, f"is named {name!r}, which is exp(loss); give it another `name`")
        taken.add(name)


def _batch_arithmetic(
    train: Train, asked: AskedResources, resources: Resources
) -> Iterator[Problem]:
    batch = train.global_batch_size
    world_size, _ = pick_world_size(train, asked, resources)
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
