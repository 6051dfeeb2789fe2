"""The algorithm: next batch, step, log, evaluate, save, stop.

How ranks share gradients, where rows and files go, and which rank this is: all that is elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from launcher.contracts import Strategy, Task
from launcher.data.loader import StepBatches
from launcher.data.order import Position
from launcher.data.steps import Step
from launcher.evaluation import Evaluation
from launcher.journal import Journal
from launcher.plan import RunPlan
from launcher.saving import Saver


@dataclass(frozen=True)
class Training:
    """Everything that takes part in the training of one attempt, on one rank."""

    plan: RunPlan
    seed: Callable[[int, int], None]
    """Sets the random state of a step's micro-batch on this rank."""
    steps: StepBatches
    task: Task
    strategy: Strategy
    journal: Journal
    saver: Saver
    evaluation: Evaluation | None
    beat: Callable[[], None]


def train(training: Training, position: Position) -> Position:
    """Trains from a position until the last step or a stop, and returns where it ended."""
    plan = training.plan
    training.strategy.model.train()
    training.beat()  # from here on a standstill is a hang; setting up may take its time
    for step in training.steps:
        loss = accumulate_gradients(training, step)
        training.saver.finish_copy()
        logged = training.strategy.update()
        training.journal.step(step, loss=loss, logged=logged)
        position = Position(step.number, step.epoch, step.position, training.steps.samples)
        last = step.number == training.steps.last_step
        if training.evaluation and (last or step.number % plan.evaluation.every_steps == 0):
            training.journal.settle(training.evaluation.run(training.beat))
        if step.number % plan.checkpoint.every_steps == 0:
            training.journal.settle()  # a resume goes on after the rows that are written
            training.saver.save(position, training.beat)
        if training.journal.stopping:
            break
    training.journal.settle()
    if training.saver.saved_step < position.step:
        training.saver.save(position, training.beat)
    training.saver.wait(training.beat)
    return position


def accumulate_gradients(training: Training, step: Step) -> Tensor:
    """Runs forward and backward over this rank's part of a step.

    Each micro-batch's mean loss counts by its share of the step's samples, so that over all
    micro-batches and ranks it sums to the mean over the step. Returns this rank's part of that.
    """
    shares: list[Tensor] = []
    for number, micro in enumerate(step.micro_batches):
        training.seed(step.number, number)
        with training.strategy.forward(last=micro.last):
            loss = training.task.loss(training.strategy.model, micro.batch)
            training.beat()  # who is stuck before this is behind those that wait in backward
            share = loss * micro.share
            training.strategy.backward(share)
        shares.append(share.detach().reshape(()))
        training.beat()
    return sum(shares[1:], shares[0])
