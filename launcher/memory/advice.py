"""What a person could change in a spec whose ranks need more memory than there is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from launcher.memory.capacity import Capacity
from launcher.memory.formulas import STRATEGIES, need_of
from launcher.memory.needs import Measured, Setting
from launcher.plan import RunPlan

_CPU = {"device": "cpu"}
_OFFLOADS = {
    "offload_optimizer: cpu": ("zero-2", {"offload_optimizer": _CPU}),
    "offload_optimizer: cpu, offload_parameters: cpu": (
        "zero-3",
        {"offload_optimizer": _CPU, "offload_param": _CPU},
    ),
}
"""What the spec says of it, from which stage on, and DeepSpeed's words."""


def advise(
    measured: Measured,
    settings: Mapping[str, Setting],
    *,
    plan: RunPlan,
    chosen: str,
    capacity: Capacity,
) -> tuple[str, ...]:
    """Each a change that would do alone; empty: the plan fits, or nothing here would do."""
    job = _Job(measured, settings, plan, chosen, capacity)
    if job.fits(chosen):
        return ()
    return tuple([*_stages(job), *_offloads(job), *_smaller_batches(job), *_recomputing(job)])


@dataclass(frozen=True)
class _Job:
    """A plan that does not fit."""

    measured: Measured
    settings: Mapping[str, Setting]
    plan: RunPlan
    chosen: str
    capacity: Capacity

    def fits(
        self, strategy: str, *, setting: Setting | None = None, activations: float = 1.0
    ) -> bool:
        """With so much of its activations."""
        profile = tuple((share, round(n * activations)) for share, n in self.measured.profile)
        measured = replace(self.measured, profile=profile)
        return self.capacity.holds(need_of(strategy, measured, setting or self.settings[strategy]))


def _stages(job: _Job) -> Iterator[str]:
    """The lowest that would do: a higher one sends more between the ranks."""
    for strategy in STRATEGIES[STRATEGIES.index(job.chosen) + 1 :]:
        if job.fits(strategy):
            yield f"strategy: {{name: deepspeed, zero_stage: {strategy[-1]}}}"
            return


def _offloads(job: _Job) -> Iterator[str]:
    """To the host's memory, which on a CPU is where all is anyway."""
    if not job.capacity.on_gpu:
        return
    for words, (first, more) in _OFFLOADS.items():
        strategy = max(first, job.chosen, key=STRATEGIES.index)
        setting = job.settings[strategy]
        if job.fits(strategy, setting=replace(setting, zero={**setting.zero, **more})):
            yield f"strategy: {{name: deepspeed, zero_stage: {strategy[-1]}, {words}}}"
            return


def _smaller_batches(job: _Job) -> Iterator[str]:
    """The largest that divides a rank's part of the batch; the rest is accumulated."""
    per_rank = job.plan.train.global_batch_size // job.plan.ranks.world_size
    setting = replace(job.settings[job.chosen], accumulates=True)
    for samples in range(job.measured.samples - 1, 0, -1):
        part = samples / job.measured.samples
        if per_rank % samples == 0 and job.fits(job.chosen, setting=setting, activations=part):
            yield f"train.micro_batch_size: {samples}"
            return


def _recomputing(job: _Job) -> Iterator[str]:
    """How much it saves shows when it is tried; without any activations the plan must fit."""
    if not job.plan.train.recomputed and job.fits(job.chosen, activations=0.0):
        yield "perhaps train.recompute, with the class of the model's repeated block"
