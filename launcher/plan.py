"""`RunPlan`: every value of a run, decided; the only thing that goes into a worker.

`planner` makes it from a spec; nothing in it is absent, `None` or "auto".
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """A part of the plan: known fields only, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Call(Frozen):
    """A callable to import, and its keyword arguments (nested calls are built first)."""

    target: str
    args: dict[str, Any] = {}


class DeclaredTask(Frozen):
    """Model, data and loss named one by one in the spec; no `eval_data`: nothing is evaluated."""

    kind: Literal["declared"] = "declared"
    model: Call
    train_data: Call
    eval_data: tuple[Call, ...]
    loss: Call


class CustomTask(Frozen):
    """A class of the user's that brings model, data and loss."""

    kind: Literal["custom"] = "custom"
    task: Call


class Schedule(Call):
    """A torch learning-rate schedule, stepped once per optimizer step."""

    warmup_steps: int


class Limit(Frozen):
    """Training ends after this many epochs or steps; of several, what is reached first."""

    unit: Literal["epochs", "steps"]
    count: int


class Train(Frozen):
    """The optimization, in samples and steps."""

    optimizer: Call
    schedule: Schedule
    global_batch_size: int
    micro_batch_size: int
    limits: Annotated[tuple[Limit, ...], Field(min_length=1)]
    precision: Literal["fp32", "bf16", "fp16"]
    clip_grad_norm: float  # the largest total L2 norm of the gradients; 0.0: not clipped
    compile: bool
    recomputed: tuple[str, ...]  # module classes whose activations backward computes again


class Loader(Frozen):
    """How each rank loads samples."""

    num_workers: int
    prefetch_factor: int
    pin_memory: bool


class Metric(Frozen):
    """A named metric of the evaluation."""

    name: str
    call: Call


class Evaluation(Frozen):
    """When the evaluation data is measured, and by what beside the loss and exp(loss)."""

    every_steps: int
    metrics: tuple[Metric, ...]
    perplexity: bool


class Ddp(Frozen):
    """Every rank holds the whole model; gradients are averaged."""

    name: Literal["ddp"] = "ddp"
    find_unused_parameters: bool


class Deepspeed(Frozen):
    """DeepSpeed splits optimizer state (ZeRO 1), gradients (2), weights (3) over the ranks."""

    name: Literal["deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3]
    config: dict[str, Any]  # all that its engine is configured with, in its own words


class Ranks(Frozen):
    """The processes that train together: on a cluster, as many of min to max as have room."""

    world_size: int
    min_world_size: int
    max_world_size: int
    device: Literal["cpu", "cuda"]
    backend: Literal["gloo", "nccl"]
    threads_per_rank: int


class Checkpoint(Frozen):
    """When the run is saved, and how many checkpoints are kept."""

    every_steps: int
    keep_last: int


class Retries(Frozen):
    """Restarts by kind of failure, and what counts as a hang."""

    node_loss: int
    crash: int
    hang: int
    hang_timeout_s: int
    hang_patience: float  # times the longest pause that a hang takes; 0.0: just the above


class Wandb(Frozen):
    """Streaming to Weights & Biases; an empty `entity` is the default of the API key."""

    kind: Literal["wandb"] = "wandb"
    project: str
    entity: str
    mode: Literal["online", "offline"]
    tags: tuple[str, ...]


class Decision(Frozen):
    """A value that the spec left open: what was chosen, and why."""

    key: str
    value: Any
    reason: str


class RunPlan(Frozen):
    """One run, fully decided."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run_id: str
    name: str
    seed: int
    storage: str  # an absolute folder, or a URL
    code_dir: str  # the spec's folder: first on every rank's import path
    task: Annotated[DeclaredTask | CustomTask, Field(discriminator="kind")]
    train: Train
    loader: Loader
    evaluation: Evaluation
    strategy: Annotated[Ddp | Deepspeed, Field(discriminator="name")]
    ranks: Ranks
    checkpoint: Checkpoint
    retries: Retries
    tracking: tuple[Wandb, ...]
    secrets: tuple[str, ...]  # environment variables that every rank must find
    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...]
