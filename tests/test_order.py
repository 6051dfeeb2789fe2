"""Every sample enters an epoch exactly once, whoever computes it and wherever it is resumed."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from launcher.data.loader import StepBatches
from launcher.data.order import GlobalStep, Position, epoch_order, global_steps, steps_left
from launcher.distributed import Rank
from launcher.plan import Limit, RunPlan
from tests.plans import make_plan

sizes = st.integers(1, 40)
world_sizes = st.integers(1, 5)


class Indices(Dataset[int]):
    """Each sample is its own index."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> int:
        return index


def plan_of(*, batch: int, micro: int, limits: list[Limit]) -> RunPlan:
    plan = make_plan()
    changes = {"global_batch_size": batch, "micro_batch_size": micro, "limits": tuple(limits)}
    return plan.model_copy(update={"train": plan.train.model_copy(update=changes)})


def entered(
    plan: RunPlan, *, samples: int, world_size: int, start: Position
) -> dict[int, list[int]]:
    """By step, the samples of all ranks in the order of the ranks."""
    found: dict[int, list[int]] = {}
    for number in range(world_size):
        rank = Rank(
            rank=number,
            world_size=world_size,
            local_rank=0,
            local_world_size=1,
            device=torch.device("cpu"),
        )
        for step in StepBatches(Indices(samples), plan=plan, rank=rank, start=start):
            found.setdefault(step.number, []).extend(drawn(step.micro_batches))
    return found


def drawn(micro_batches: Iterator[object]) -> list[int]:
    """The samples that count; those of a rank without any only keep it in step."""
    indices: list[int] = []
    for micro in micro_batches:
        batch: Tensor = micro.batch  # type: ignore[attr-defined]
        indices += batch.tolist()[: micro.samples]  # type: ignore[attr-defined]
    return indices


@given(samples=sizes, batch=sizes, micro=sizes, world_size=world_sizes, epochs=st.integers(1, 3))
def test_each_epoch_takes_every_sample_once(
    samples: int, batch: int, micro: int, world_size: int, epochs: int
) -> None:
    plan = plan_of(batch=batch, micro=micro, limits=[Limit(unit="epochs", count=epochs)])
    by_step = entered(plan, samples=samples, world_size=world_size, start=Position())
    order = [index for step in sorted(by_step) for index in by_step[step]]
    for epoch in range(1, epochs + 1):
        part = order[samples * (epoch - 1) : samples * epoch]
        assert sorted(part) == list(range(samples))
        assert part == epoch_order(samples=samples, seed=plan.seed, epoch=epoch).tolist()
    assert len(order) == samples * epochs


@given(
    samples=sizes,
    batch=sizes,
    before=st.tuples(world_sizes, sizes),
    after=st.tuples(world_sizes, sizes),
    stop_after=st.integers(0, 60),
)
def test_a_run_that_goes_on_elsewhere_repeats_and_skips_no_sample(
    samples: int, batch: int, before: tuple[int, int], after: tuple[int, int], stop_after: int
) -> None:
    limits = [Limit(unit="epochs", count=3)]
    steps = list(global_steps(Position(), samples=samples, global_batch_size=batch, limits=limits))
    done = steps[: min(stop_after, len(steps))]
    reached = (
        Position(step=done[-1].number, epoch=done[-1].epoch, taken=done[-1].end)
        if done
        else Position()
    )

    def take(where: tuple[int, int], start: Position) -> dict[int, list[int]]:
        world_size, micro = where
        plan = plan_of(batch=batch, micro=micro, limits=limits)
        return entered(plan, samples=samples, world_size=world_size, start=start)

    unbroken = take(before, Position())
    interrupted = {step.number: unbroken[step.number] for step in done} | take(after, reached)
    assert interrupted == unbroken


@given(first=sizes, batch=sizes, world_size=world_sizes)
def test_the_parts_of_ranks_are_even_and_the_first_is_never_empty(
    first: int, batch: int, world_size: int
) -> None:
    step = GlobalStep(number=1, epoch=1, first=first, end=first + batch)
    parts = [step.part(rank=rank, world_size=world_size) for rank in range(world_size)]
    assert parts[0][0] == step.first
    assert parts[-1][1] == step.end
    assert all(one[1] == other[0] for one, other in pairwise(parts))
    lengths = [end - first for first, end in parts]
    assert lengths[0] == max(lengths)
    assert max(lengths) - min(lengths) <= 1


@given(
    samples=sizes,
    batch=sizes,
    epochs=st.none() | st.integers(1, 4),
    steps=st.none() | st.integers(1, 90),
)
def test_training_ends_at_whichever_limit_comes_first(
    samples: int, batch: int, epochs: int | None, steps: int | None
) -> None:
    given_limits = {"epochs": epochs, "steps": steps}
    limits = [Limit(unit=u, count=c) for u, c in given_limits.items() if c]  # type: ignore[arg-type]
    if not limits:
        return
    extent = {"samples": samples, "global_batch_size": batch, "limits": limits}
    taken = list(global_steps(Position(), **extent))  # type: ignore[arg-type]
    per_epoch = -(-samples // batch)
    assert len(taken) == min(per_epoch * (epochs or 10**9), steps or 10**9)
    assert [step.number for step in taken] == list(range(1, len(taken) + 1))
    end = Position(step=taken[-1].number, epoch=taken[-1].epoch, taken=taken[-1].end)
    assert steps_left(end, **extent) == 0  # type: ignore[arg-type]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(epoch_order(samples=50, seed=seed, epoch=epoch).tolist())
        for seed in range(3)
        for epoch in range(1, 4)
    }
    assert len(orders) == 9


def test_a_rank_without_samples_in_a_step_still_takes_part_with_no_weight() -> None:
    plan = plan_of(batch=4, micro=2, limits=[Limit(unit="epochs", count=1)])
    rank = Rank(rank=2, world_size=3, local_rank=0, local_world_size=1, device=torch.device("cpu"))
    last = list(StepBatches(Indices(9), plan=plan, rank=rank, start=Position()))[-1]
    assert last.samples == 1
    (micro,) = last.micro_batches
    assert micro.last
    assert micro.share == 0.0
    assert micro.samples == 0
