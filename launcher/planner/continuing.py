"""What a run that goes on may not change: its checkpoint would mean something else. Pure."""

from collections.abc import Iterator

from launcher.plan import RunPlan
from launcher.spec import Problem


def changes_refused(earlier: RunPlan, plan: RunPlan) -> Iterator[Problem]:
    """One problem for each value that cannot be another one than before."""
    fixed = [
        (("name",), earlier.name, plan.name, "names the run"),
        (("seed",), earlier.seed, plan.seed, "decides which samples are still to come"),
        (
            ("train", "optimizer", "target"),
            earlier.train.optimizer.target,
            plan.train.optimizer.target,
            "wrote the state that the checkpoint holds",
        ),
    ]
    for key, before, now, why in fixed:
        if now != before:
            yield Problem(
                key,
                f"is {now}, and this run goes on from {before}, which {why}; take the change away, "
                "or start a new run",
            )
