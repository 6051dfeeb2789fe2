"""What is trained, as a spec declares it: model, datasets and loss from import paths.

A custom task is a class of the user's with the same methods (`contracts.Task`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from launcher.contracts import Task
from launcher.errors import SpecError
from launcher.plan import Call, CustomTask, DeclaredTask, Metric, RunPlan
from launcher.targets import build, load

Loss = Callable[[Any, Any], Tensor]
LABEL_KEYS = ("labels", "label", "target", "targets", "y")


def make_task(plan: RunPlan) -> Task:
    """The task of a plan, its targets imported."""
    match plan.task:
        case CustomTask(task=call):
            return cast(Task, _build(call))
        case DeclaredTask() as declared:
            return SupervisedTask(declared, metrics=plan.evaluation.metrics)


class SupervisedTask:
    """A model that maps inputs to an output, and a loss of output and label."""

    def __init__(self, declared: DeclaredTask, *, metrics: tuple[Metric, ...]) -> None:
        self._declared = declared
        self._loss: Loss = _callable(declared.loss)
        self._metrics = {metric.name: _callable(metric.call) for metric in metrics}

    def build_model(self) -> nn.Module:
        model = _build(self._declared.model)
        if not isinstance(model, nn.Module):
            raise SpecError(
                f"model.target {self._declared.model.target} returned a "
                f"{type(model).__name__}, not a torch.nn.Module"
            )
        return model

    def train_data(self) -> Dataset[Any]:
        return cast(Dataset[Any], _build(self._declared.train_data))

    def eval_data(self) -> Dataset[Any] | None:
        datasets = [_build(call) for call in self._declared.eval_data]
        return datasets[0] if datasets else None

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self._forward(model, batch)[0]

    def evaluate(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        loss, output, label = self._forward(model, batch)
        values = {"loss": loss}
        for name, metric in self._metrics.items():
            values[name] = _number(metric(output, label), metric=name)
        return values

    def _forward(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any, Any]:
        """Loss, prediction and label of a micro-batch."""
        model_computes_loss = self._loss is output_loss
        output, label = _apply(model, batch, pass_label=model_computes_loss)
        prediction = _prediction(output)
        loss = output_loss(output, label) if model_computes_loss else self._loss(prediction, label)
        return loss, prediction, label


def output_loss(output: Any, _label: Any) -> Tensor:
    """The loss that the model computed itself, as Hugging Face models do."""
    loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if loss is None:
        raise SpecError(
            f"the model returned a {type(output).__name__} without a .loss; name one in train.loss"
        )
    return cast(Tensor, loss)


def accuracy(output: Tensor, label: Tensor) -> Tensor:
    """Share of labels that the largest output picks.

    `output` (B, C, ...) scores or (B, ..., C) with `label` (B, ...) of class numbers; scalar.
    """
    classes_last = output.shape[:-1] == label.shape
    picked = output.argmax(dim=-1 if classes_last else 1)
    return (picked == label).float().mean()


def _apply(model: nn.Module, batch: Any, *, pass_label: bool) -> tuple[Any, Any]:
    """The model's output, and the label: the last of a sequence, or of a dict its label key."""
    if isinstance(batch, dict):
        key = next((key for key in LABEL_KEYS if key in batch), None)
        label = batch.get(key) if key else None
        inputs = batch if pass_label else {k: v for k, v in batch.items() if k != key}
        return model(**inputs), label
    if isinstance(batch, list | tuple):
        *arguments, label = batch if len(batch) > 1 else (batch[0], None)
        return model(*arguments), label
    return model(batch), batch


def _number(value: Any, *, metric: str) -> Tensor:
    """A scalar; SpecError that names the metric where its value is none."""
    try:
        mean = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise SpecError(
            f"eval.metrics: {metric} returned a {type(value).__name__}, not the mean over its batch"
        ) from None
    if mean.numel() != 1:
        raise SpecError(
            f"eval.metrics: {metric} returned the shape {tuple(mean.shape)}, not one number: the "
            "mean over its batch"
        )
    return mean.reshape(())


def _prediction(output: Any) -> Any:
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    return output if logits is None else logits


def _callable(call: Call) -> Any:
    """A class, such as torch.nn.CrossEntropyLoss, is built; a function gets its keywords bound."""
    loaded = load(call.target)
    if isinstance(loaded, type):
        return _build(call)
    return functools.partial(loaded, **call.args) if call.args else loaded


def _build(call: Call) -> Any:
    return build(call.target, call.args)
