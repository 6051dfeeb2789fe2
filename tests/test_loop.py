"""The order of a training step, with something small at each seam."""

import contextlib
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from launcher.contracts import Strategy, Task
from launcher.data.loader import StepBatches
from launcher.data.order import Position
from launcher.distributed import Rank
from launcher.journal import Journal
from launcher.loop import Training, train
from launcher.saving import Saver
from tests.fakes import ListSink
from tests.plans import make_plan

ALONE = Rank(rank=0, world_size=1, local_rank=0, local_world_size=1, device=torch.device("cpu"))


class PlainStrategy:
    """A linear model that is never updated."""

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1)

    def forward(self, *, last: bool) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> dict[str, float | Tensor]:
        return {}


class MeanTask:
    """Its loss is the mean output."""

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        mean: Tensor = model(batch.float().unsqueeze(1)).mean()
        return mean


@dataclass
class ListSaver:
    """Notes for each save which rows were written by then."""

    sink: ListSink
    saved_step: int = 0
    rows_at_save: dict[int, list[int]] = field(default_factory=dict)

    def save(self, position: Position, _beat: object) -> None:
        self.saved_step = position.step
        self.rows_at_save[position.step] = [row["step"] for row in self.sink.rows]

    def finish_copy(self) -> None:
        """Nothing is copied."""

    def wait(self, _beat: object) -> None:
        """Nothing is written."""


def make_training(*, stop_at: int = 99) -> tuple[Training, ListSaver]:
    plan = make_plan(checkpoint={"every_steps": 3, "keep_last": 2})
    sink = ListSink()
    saver = ListSaver(sink)
    steps = StepBatches(cast(Any, range(40)), plan=plan, rank=ALONE, start=Position())
    training = Training(
        plan=plan,
        seed=lambda _step, _micro: None,
        steps=steps,
        task=cast(Task, MeanTask()),
        strategy=cast(Strategy, PlainStrategy()),
        journal=Journal(sink, stop_wanted=lambda: len(sink.rows) + 1 >= stop_at, world_size=1),
        saver=cast(Saver, saver),
        evaluation=None,
        beat=lambda: None,
    )
    return training, saver


def test_a_checkpoint_begins_when_the_rows_of_its_steps_are_written() -> None:
    """Or a run that is killed after the save and resumed would never have the last row."""
    training, saver = make_training()
    train(training, Position())
    assert {step: rows[-1] for step, rows in saver.rows_at_save.items()} == {
        3: 3,
        6: 6,
        9: 9,
        10: 10,
    }


def test_a_stop_is_saved_where_it_came() -> None:
    training, saver = make_training(stop_at=4)
    end = train(training, Position())
    assert end.step == saver.saved_step
    assert saver.rows_at_save[end.step] == list(range(1, end.step + 1))
