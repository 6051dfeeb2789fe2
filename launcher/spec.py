"""What a person may ask for: the sections of a job spec, each field with its meaning and range.

A field that is absent (`None`) is decided by `planner`; reading YAML is `specfile`'s work.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Key = tuple[str | int, ...]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$")]


class Section(BaseModel):
    """A mapping of the job spec: unknown keys are refused, and values are never coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class Shorthand(Section):
    """A section that may also be written as one bare string, the value of its first field."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {next(iter(cls.model_fields)): value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}


class Target(Shorthand):
    """A callable to import, and the keyword arguments it is called with."""

    target: ImportPath
    """Import path, `package.module:name` or dotted. The spec's folder is importable."""

    args: dict[str, Any] = {}
    """Keyword arguments. Values of the form `{target: ..., args: ...}` are built first."""


class Schedule(Target):
    """A learning-rate schedule, stepped once per optimizer step."""

    warmup_steps: Count = 0
    """Optimizer steps of linear warm-up before the schedule starts at its own step 0."""


class Metric(Target):
    """A metric of the evaluation: `accuracy`, `loss`, `perplexity`, or a callable of yours."""

    name: str | None = None
    """The metric's name in `metrics.jsonl`, after `eval_`; absent: the last part of the target."""


class Loader(Section):
    """How samples are loaded; each field that is absent is decided for you."""

    num_workers: Count | None = None
    """Loader processes of each rank; 0 loads in the rank itself."""

    prefetch_factor: Positive | None = None
    """Micro-batches that each loader process prepares ahead."""

    pin_memory: bool | None = None
    """Load into page-locked memory, for faster copies to a GPU."""


class Data(Section):
    """The datasets, and how they are loaded."""

    train: Target | None = None
    """A callable that returns the map-style training Dataset; needed with `model`."""

    eval: Target | None = None
    """A callable that returns the Dataset that `eval` measures."""

    loader: Loader | None = None


class Train(Section):
    """How the model is trained."""

    loss: Target | None = None
    """Called as loss(output, label), returns a scalar. Absent: the model's output has a `.loss`."""

    optimizer: Target
    """A torch.optim.Optimizer class, called with the parameters and `args`."""

    schedule: Schedule | None = None
    """A class from torch.optim.lr_scheduler; absent: the learning rate is constant."""

    global_batch_size: Positive
    """Samples that go into one optimizer step, whatever the world size."""

    micro_batch_size: Positive | None = None
    """Samples that go through one forward on one rank; absent: global batch / world size."""

    max_epochs: Positive | None = None
    """Passes over the training data; with `max_steps` too, whichever comes first."""

    max_steps: Positive | None = None
    """Optimizer steps; with `max_epochs` too, whichever comes first."""

    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Autocast type of the forward pass; absent: the fastest the hardware computes natively."""

    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest total L2 norm of the gradients; absent: they are not clipped."""

    compile: bool = False
    """Compile the model with torch.compile."""

    recompute: list[ImportPath] = []
    """Module classes, such as `digits:Block`: what their forward keeps for backward is dropped and
    computed again, which takes time and saves memory (activation checkpointing)."""


class Eval(Section):
    """When the evaluation data is measured, and by what."""

    every_steps: Positive | None = None
    """Optimizer steps between evaluations; there is always one at the end."""

    metrics: list[Metric] = []
    """What is measured beside the loss."""


class Strategy(Shorthand):
    """How ranks train together."""

    name: Literal["ddp", "deepspeed"] = "ddp"
    """`ddp`: every rank holds the whole model, gradients are averaged. `deepspeed`: its engine,
    with what ZeRO splits over the ranks."""

    find_unused_parameters: bool = False
    """With `ddp`, where some parameters get no gradient in some steps; costs a graph walk each."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """With `deepspeed`: 0 splits nothing, 1 the optimizer's state, 2 gradients too, 3 weights too;
    absent: that of `config`, else 2."""

    offload_optimizer: Literal["cpu", "nvme"] | None = None
    """With `deepspeed`: where the optimizer's state is kept instead of on the GPU."""

    offload_parameters: Literal["cpu", "nvme"] | None = None
    """With ZeRO 3: where weights are kept while they are not used."""

    nvme_path: str | None = None
    """Folder on a fast local disk, for what is offloaded to `nvme`."""

    config: str | dict[str, Any] | None = None
    """A DeepSpeed config, inline or the path of its JSON file in the spec's folder, for all that
    has no field here. What it repeats of the spec must agree; `"auto"` is as the spec says."""


class Resources(Section):
    """What the run may use."""

    world_size: Positive | Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = (
        None
    )
    """Ranks, or `[min, max]` for as many as fit; absent: one for each GPU, else one."""

    cpus_per_rank: Positive | None = None
    """Cores, and so threads, of each rank; absent: the cores divided by the ranks."""

    gpus_per_rank: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs of each rank; absent: 1 where there are GPUs."""


class Checkpoint(Section):
    """When the run is saved, and how much of that is kept."""

    every_steps: Positive | None = None
    """Optimizer steps between checkpoints; there is always one at the end."""

    keep_last: Positive | None = None
    """Checkpoints kept; an older one is deleted only after a newer one is durable."""


class Retries(Section):
    """How often a run starts again by itself, by the kind of failure."""

    node_loss: Count | None = None
    """Restarts after a host or a process was lost (killed from outside)."""

    crash: Count | None = None
    """Restarts after the user's code raised or crashed in the middle of training."""

    hang: Count | None = None
    """Restarts after a hang: no rank made progress for `hang_timeout_s`."""

    hang_timeout_s: Positive | None = None
    """Seconds without progress that are a hang. Absent: 45, or 10 times the longest pause that the
    run has made, whichever is more; 600 during the first four steps."""


class Wandb(Section):
    """Streaming to Weights & Biases."""

    project: str
    """The W&B project."""

    entity: str | None = None
    """The W&B user or team; absent: the default of the API key."""

    mode: Literal["online", "offline"] | None = None
    """Absent: online where an API key is found, else offline."""

    tags: list[str] = []
    """Tags of the W&B run."""


class Tracking(Section):
    """Where metrics are streamed to, beside `metrics.jsonl`."""

    wandb: Wandb | None = None
    """Weights & Biases."""


class JobSpec(Section):
    """One training job. What trains is either `model` with `data`, or a `task`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)]
    """Names the runs: lower-case letters, digits and hyphens."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds initial weights, sample order, augmentation and dropout."""

    model: Target | None = None
    """Any callable that returns an nn.Module."""

    data: Data | None = None

    task: Target | None = None
    """A class of yours that brings model, data and loss: any other training step."""

    train: Train
    eval: Eval | None = None
    strategy: Strategy | None = None
    resources: Resources | None = None
    checkpoint: Checkpoint | None = None
    retries: Retries | None = None
    tracking: Tracking | None = None

    secrets: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = []
    """Names of environment variables that each host must have, or a file ~/.launcher/secrets/NAME;
    their values are never written."""

    storage: str | None = None
    """Folder that holds the runs; absent: `runs`."""


def dotted(key: Key) -> str:
    """The key as a person writes it."""
    return ".".join(map(str, key))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a spec: the key it concerns, and what to tell a person."""

    key: Key
    message: str
    other: Key | None = None
    """A second key that it concerns: where the message names it, its place will be told."""
