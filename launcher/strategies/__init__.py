"""How ranks train together: the model in its place, and the strategy around it."""

from torch import nn

from launcher.contracts import Strategy, Task
from launcher.distributed import Rank
from launcher.plan import Ddp, Deepspeed, RunPlan
from launcher.strategies.recomputation import recompute


def build_model(task: Task, *, plan: RunPlan) -> nn.Module:
    """The task's model, with equal weights on every rank; called by every rank.

    With ZeRO 3 each rank keeps its share of the weights only, while the model is being built.
    """
    match plan.strategy:
        case Deepspeed(zero_stage=3, config=config):
            from launcher.strategies.deepspeed.building import in_shares

            with in_shares(config):
                model = task.build_model()
        case _:
            model = task.build_model()
    recompute(model, plan.train.recomputed)
    return model


def make_strategy(model: nn.Module, *, plan: RunPlan, rank: Rank) -> Strategy:
    """Called by every rank."""
    match plan.strategy:
        case Ddp() as ddp:
            from launcher.strategies.ddp import DdpStrategy

            return DdpStrategy(model, plan=plan, ddp=ddp, rank=rank)
        case Deepspeed() as settings:
            from launcher.strategies.deepspeed import DeepspeedStrategy

            return DeepspeedStrategy(model, plan=plan, settings=settings, rank=rank)
