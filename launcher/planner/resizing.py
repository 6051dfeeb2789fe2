"""The same plan for another number of ranks: what an elastic run may do between two attempts."""

from launcher.plan import Deepspeed, RunPlan
from launcher.planner.deepspeed import batches


def world_sizes(plan: RunPlan) -> list[int]:
    """Those that the plan allows and that divide its batch, in increasing order."""
    ranks = plan.ranks
    return [
        size
        for size in range(ranks.min_world_size, ranks.max_world_size + 1)
        if plan.train.global_batch_size % size == 0
    ]


def resized(plan: RunPlan, world_size: int) -> RunPlan:
    """The plan for so many ranks; a rank never gets a larger micro-batch than was planned."""
    if world_size == plan.ranks.world_size:
        return plan
    per_rank = plan.train.global_batch_size // world_size
    largest = min(per_rank, plan.train.micro_batch_size)
    micro = next(size for size in range(largest, 0, -1) if per_rank % size == 0)
    ranks = plan.ranks.model_copy(update={"world_size": world_size})
    train = plan.train.model_copy(update={"micro_batch_size": micro})
    strategy = plan.strategy
    if isinstance(strategy, Deepspeed):
        config = {**strategy.config, **batches(train, ranks)}
        strategy = strategy.model_copy(update={"config": config})
    return plan.model_copy(update={"ranks": ranks, "train": train, "strategy": strategy})
