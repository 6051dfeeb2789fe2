"""`launcher.memory`: needs by hand-computed sums, and what a step is measured to take."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from launcher.memory.advice import advise
from launcher.memory.capacity import Capacity
from launcher.memory.formulas import STRATEGIES, need_of
from launcher.memory.needs import Measured, Parts, Setting, extrapolated
from launcher.memory.probe import measure_with_fakes, measure_with_memory
from launcher.plan import RunPlan
from launcher.task import make_task
from tests.plans import make_plan, ranks

MIB = 1 << 20
JOB = Measured(
    method="fake tensors",
    samples=8,
    trainable=(600_000, 400_000),
    trainable_bytes=4_000_000,
    frozen_bytes=0,
    buffer_bytes=1_000,
    optimizer_bytes=8_000_000,
    update_bytes=40_000,
    profile=((0.0, 5_000_000), (0.6, 2_000_000), (1.0, 100_000)),
    process_bytes=300_000_000,
)
"""A million weights of 4 bytes with AdamW."""
FOUR = Setting(world_size=4, on_gpu=False, accumulates=False)
GPUS = replace(FOUR, on_gpu=True, zero={"reduce_bucket_size": 500_000})


def device(strategy: str, setting: Setting = FOUR) -> Parts:
    return need_of(strategy, JOB, setting).device


def test_ddp_has_everything_and_its_buckets_are_the_gradients() -> None:
    need = need_of("ddp", JOB, FOUR)
    assert need.device == Parts(4_001_000, 4_000_000, 8_000_000, 5_000_000)
    assert need.checkpoint == 4_001_000 + 8_000_000
    assert need.all_bytes == 21_001_000 + 12_001_000 + 300_000_000


def test_a_lone_rank_on_a_gpu_has_gradients_only_from_backward_to_step() -> None:
    alone = replace(GPUS, world_size=1)
    assert device("ddp", alone) == Parts(4_001_000, 0, 8_000_000, 5_000_000)
    accumulating = device("ddp", replace(alone, accumulates=True))
    assert accumulating == Parts(4_001_000, 4_000_000, 8_000_000, 5_000_000)


def test_a_cpus_process_keeps_what_it_had_of_activations() -> None:
    alone = replace(FOUR, world_size=1)
    assert device("ddp", alone) == Parts(4_001_000, 4_000_000, 8_000_000, 5_000_000)


def test_stage_0_sums_gradients_in_a_copy() -> None:
    assert device("zero-0") == Parts(4_001_000, 4_000_000, 8_000_000, 5_000_000, 4_000_000)
    assert device("zero-0", GPUS) == Parts(4_001_000, 4_000_000, 8_000_000, 0, 4_000_000)


def test_stage_1_has_a_quarter_of_master_weights_and_moments() -> None:
    # 1e6 / 4 ranks * (4 + 8) bytes; all gradients, their share, and the bucket they went into
    assert device("zero-1") == Parts(4_001_000, 5_000_000, 3_000_000, 5_000_000, 4_000_000)


def test_stage_2_keeps_its_share_of_gradients_and_passes_them_through_a_bucket() -> None:
    # in the end: bucket and flat copy of 4e6 each, beside 1e6 of this rank's gradients
    assert device("zero-2") == Parts(4_001_000, 1_000_000, 3_000_000, 5_000_000, 8_000_000)


def test_a_small_bucket_is_reduced_while_activations_are_there() -> None:
    small = replace(GPUS, zero={"reduce_bucket_size": 100_000})
    # before any gradient is there only the bucket of 4e5 stands beside the activations
    assert device("zero-2", small) == Parts(4_001_000, 0, 3_000_000, 5_000_000, 400_000)
    late = replace(JOB, profile=((0.0, 1_000_000), (0.6, 2_000_000)))
    # at 0.6 gradients of 2.4e6 went through the bucket and its copy
    parts = need_of("zero-2", late, small).device
    assert parts == Parts(4_001_000, 1_000_000, 3_000_000, 2_000_000, 800_000)


def test_a_gpu_gives_the_whole_bucket_at_once() -> None:
    assert device("zero-1", GPUS).buckets == 2_000_000
    whole = replace(GPUS, zero={})
    assert device("zero-1", whole).buckets == 500_000_000 * 4


def test_stage_3_of_fp32_weights_needs_no_master_copy() -> None:
    # a quarter of weights, gradients and moments; all weights gathered, as they are few
    # in the end: the bucket, its flat copy and gloo's, and what weights were fetched in
    parts = device("zero-3")
    assert parts == Parts(5_001_000, 1_000_000, 2_000_000, 5_000_000, 16_000_000)


def test_stage_3_keeps_few_weights_where_it_is_told_to() -> None:
    few = {
        "stage3_max_live_parameters": 50_000,
        "stage3_prefetch_bucket_size": 10_000,
        "stage3_param_persistence_threshold": 0,
        "reduce_bucket_size": 100_000,
    }
    parts = device("zero-3", replace(GPUS, zero=few))
    assert parts == Parts(1_201_000, 1_000_000, 2_000_000, 5_000_000, 440_000)


def test_half_precision_of_deepspeed_has_2_and_2_and_12_bytes_a_weight() -> None:
    """The table of the ZeRO paper: 2 + 2 for all of them, 12 / N of the optimizer."""
    half = replace(FOUR, half=True)
    first, second, third = (device(f"zero-{stage}", half) for stage in (1, 2, 3))
    assert first.parameters == second.parameters == 2_001_000
    assert first.optimizer == second.optimizer == third.optimizer == 12_000_000 / 4
    assert third.gradients == 2_000_000 / 4
    assert device("zero-0", half).optimizer == 12_000_000


def test_what_is_offloaded_is_the_hosts() -> None:
    zero = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    need = need_of("zero-3", JOB, replace(FOUR, zero=zero))
    assert need.device.optimizer == need.device.gradients == 0
    # masters and their gradients, moments, gradients, weights: 4 + 4 + 8 + 4 + 4 bytes / 4 ranks
    assert need.offloaded == 24_000_000 / 4
    nvme = {"offload_optimizer": {"device": "nvme"}}
    assert need_of("zero-2", JOB, replace(FOUR, zero=nvme)).offloaded == 0


def test_activations_of_a_large_batch_follow_from_those_of_two_small_ones() -> None:
    two, four = (replace(JOB, samples=n, profile=((0.0, 100 + 50 * n),)) for n in (2, 4))
    assert extrapolated(two, four, samples=64).profile == ((0.0, 100 + 50 * 64),)


def advice(device_bytes: int, **train: Any) -> tuple[str, ...]:
    plan = make_plan(ranks=ranks(4))
    plan = plan.model_copy(
        update={
            "train": plan.train.model_copy(
                update={"global_batch_size": 32, "micro_batch_size": 8, **train}
            )
        }
    )
    capacity = Capacity(
        on_gpu=True, device_bytes=device_bytes, host_bytes=10**9, ranks=4, name="a GPU"
    )
    settings = dict.fromkeys(STRATEGIES, GPUS)
    return advise(JOB, settings, plan=plan, chosen="ddp", capacity=capacity)


def test_a_plan_that_fits_needs_no_advice() -> None:
    assert advice(22_000_000) == ()


def test_what_would_fit_is_the_lowest_stage_an_offload_and_a_smaller_batch() -> None:
    assert advice(16_500_000) == (
        "strategy: {name: deepspeed, zero_stage: 1}",
        "strategy: {name: deepspeed, zero_stage: 2, offload_optimizer: cpu}",
        "perhaps train.recompute, with the class of the model's repeated block",
    )
    assert "train.micro_batch_size: 4" in advice(19_000_000)
    assert not any("recompute" in line for line in advice(19_000_000, recomputed=("a:B",)))


class Mlp(nn.Module):
    """(B, 32) -> (B, 8)."""

    def __init__(self, *, looks: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(32, 256)
        self.last = nn.Linear(256, 8)
        self._looks = looks

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        return self.last(hidden * 2 if self._looks and hidden.sum().item() < 0 else hidden)


class Samples(Dataset[tuple[Tensor, Tensor]]):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(32), torch.tensor(0)


def plan_of(target: str, **args: Any) -> RunPlan:
    plan = make_plan()
    call = {"target": f"tests.test_memory:{target}", "args": args}
    task = {**plan.task.model_dump(), "model": call}
    train = {
        **plan.train.model_dump(),
        "optimizer": {"target": "torch.optim:AdamW", "args": {"lr": 0.1}},
    }
    return make_plan(task=task, train=train)


PARAMETERS = 32 * 256 + 256 + 256 * 8 + 8


def test_parameters_and_moments_are_counted_exactly_and_activations_of_an_mlp_nearly() -> None:
    plan = plan_of("Mlp")
    batch = default_collate([Samples()[0]] * 64)
    measured = measure_with_fakes(plan, make_task(plan), batch, samples=64)
    assert sum(measured.trainable) * 4 == measured.trainable_bytes == PARAMETERS * 4
    moments = 2 * PARAMETERS * 4
    assert moments <= measured.optimizer_bytes <= moments + 4 * 8  # with a counter for each
    # inputs, the hidden layer (twice: relu's input is freed once it is done), scores, labels
    hidden, rest = 64 * 256 * 4, 64 * (32 + 8 + 8) * 4 + 64 * 8
    most = max(size for _, size in measured.profile)
    assert 2 * hidden <= most <= 2 * hidden + 2 * rest + MIB / 20
    shares = [share for share, _ in measured.profile]
    assert shares[0] == 0.0
    assert shares == sorted(shares)


def test_a_model_that_looks_at_values_is_measured_with_real_tensors() -> None:
    plan = plan_of("Mlp", looks=True)
    batch = default_collate([Samples()[0]] * 64)
    with pytest.raises(Exception, match="_local_scalar_dense"):
        measure_with_fakes(plan, make_task(plan), batch, samples=64)
    real = measure_with_memory(plan, make_task(plan), batch, samples=64)
    fake = measure_with_fakes(plan_of("Mlp"), make_task(plan_of("Mlp")), batch, samples=64)
    assert real.trainable == fake.trainable
    assert real.optimizer_bytes == fake.optimizer_bytes
    largest = [max(size for _, size in m.profile) for m in (real, fake)]
    assert largest[0] == pytest.approx(largest[1], rel=0.1)


def test_recomputed_modules_keep_no_activations() -> None:
    plan = plan_of("Deep")
    batch = default_collate([Samples()[0]] * 64)
    plain = measure_with_fakes(plan, make_task(plan), batch, samples=64)
    train = plan.train.model_copy(update={"recomputed": ("tests.test_memory:Mlp",)})
    lean = plan.model_copy(update={"train": train})
    recomputed = measure_with_fakes(lean, make_task(lean), batch, samples=64)
    most = [max(size for _, size in m.profile) for m in (recomputed, plain)]
    assert most[0] < most[1] * 2 / 3


class Deep(nn.Sequential):
    """(B, 32) -> (B, 8), three MLPs one behind the other."""

    def __init__(self) -> None:
        super().__init__(*(nn.Sequential(Mlp(), nn.Linear(8, 32)) for _ in range(2)), Mlp())
