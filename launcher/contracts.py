"""The seams: what can be swapped, and what each side may rely on.

Two real implementations of each exist or are planned for; everything else is called by its name.
"""

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from launcher.outcome import AttemptEnd
from launcher.plan import RunPlan
from launcher.rundir import RunDir

if TYPE_CHECKING:  # the command line reads this file and must not pay for torch
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from launcher.tensor_files import Part


@dataclass(frozen=True)
class Attempt:
    """What one start of a run's processes is given."""

    plan: RunPlan
    run_dir: RunDir
    number: int
    checkpoint: str
    """Name of the checkpoint to go on from, relative to the run directory; empty: from step 0."""


@dataclass
class StopRequest:
    """How a person's wish to stop reaches the ranks."""

    graceful: threading.Event = field(default_factory=threading.Event)
    """Finish the step, save, end."""
    at_once: threading.Event = field(default_factory=threading.Event)
    """End now; the last checkpoint is what remains."""


class Engine(Protocol):
    """How the ranks of an attempt are started, watched and reaped."""

    name: str
    restartable: bool
    """Whether a failed attempt can be followed by another."""
    shows_output: bool
    """Whether what rank 0 prints is seen as it runs; else it is followed in the rank's log."""

    def run(self, attempt: Attempt, *, stop: StopRequest) -> AttemptEnd:
        """Blocks until every process of the attempt is gone."""

    def close(self) -> None:
        """Leaves no process behind."""


class Task(Protocol):
    """What is trained: a model, its data and its loss; `task:` in a spec names such a class.

    What else it keeps from step to step belongs into the model's buffers: they are saved.
    """

    def build_model(self) -> "nn.Module":
        """The model on the CPU, its weights drawn from torch's global generator."""

    def train_data(self) -> "Dataset[Any]":
        """A map-style dataset."""

    def eval_data(self) -> "Dataset[Any] | None":
        """The dataset that is evaluated, or None."""

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """The mean loss over the samples of a micro-batch: a scalar with a graph."""

    def evaluate(self, model: "nn.Module", batch: Any) -> "Mapping[str, Tensor]":
        """Scalar means over a batch's samples, by name, `loss` among them; without gradients."""


class Strategy(Protocol):
    """How ranks train together. Every method is called by every rank."""

    model: "nn.Module"
    """What a training step calls, on all ranks equally often: it may communicate."""
    bare_model: "nn.Module"
    """The user's own module, for evaluation; the same holds for it."""
    splits: bool
    """Whether other ranks than 0 hold parts of what is saved."""

    def forward(self, *, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward of a micro-batch; gradients are shared after the last."""

    def precision(self) -> AbstractContextManager[Any]:
        """Around a forward without gradients, for the same arithmetic as in training."""

    def backward(self, loss: "Tensor") -> None:
        """Adds to the gradients. Over micro-batches and ranks, `loss` sums to the step's mean."""

    def update(self) -> "dict[str, float | Tensor]":
        """Clips, takes the optimizer and schedule step, clears gradients; returns what to log."""

    def tensors(self) -> "dict[str, dict[str, Part]]":
        """What this rank holds of a checkpoint's tensors, by file ("model", ...) and name."""

    def volatile(self) -> frozenset[str]:
        """Names of the model's tensors that may change before the next `update`."""

    def scalars(self) -> dict[str, Any]:
        """The rest of the state, as JSON; rank 0's is saved."""

    def load(self, tensors: "dict[str, dict[str, Tensor]]", scalars: dict[str, Any]) -> None:
        """Puts a saved state in place, bit for bit."""


class MetricSink(Protocol):
    """Where rows of metrics go. Rows come in order of their steps, each step at most once."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Takes `{"step", "epoch", "time", "loss", ...}`, numbers; never blocks on a network."""

    def close(self) -> None:
        """Everything logged so far is safe when it returns."""
