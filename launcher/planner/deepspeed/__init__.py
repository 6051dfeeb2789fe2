"""`strategy: deepspeed`: what its engine is configured with, and how a person's own config fits in.

DeepSpeed itself is never imported here; its words are those of release 0.19.
"""

from launcher.planner.deepspeed.configuration import batches, plan_deepspeed
from launcher.planner.deepspeed.problems import strategy_problems
from launcher.planner.deepspeed.said import filled

__all__ = ["batches", "filled", "plan_deepspeed", "strategy_problems"]
