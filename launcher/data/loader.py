"""Loads one rank's micro-batches, step by step, through one torch DataLoader for the whole run.

The order comes from `order`; the workers keep prefetching across the end of an epoch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from launcher.data.device import on_device, to_device
from launcher.data.order import GlobalStep, Position, epoch_order, global_steps, slices, steps_left
from launcher.data.randomness import mix, seed_cpu
from launcher.data.steps import MicroBatch, Step
from launcher.distributed import Rank, start_loader_worker
from launcher.errors import SpecError
from launcher.plan import Loader, RunPlan

_SAMPLE = 0x73616D706C65  # keeps the samples' seeds apart from the order's
SampleKey = tuple[int, int]
"""(epoch, index): all that a sample's content may depend on beside the run's seed."""


class SeededSamples(Dataset[Any]):
    """The user's dataset, each sample drawn under a random state of its own."""

    def __init__(self, dataset: Dataset[Any], *, seed: int) -> None:
        self._dataset = dataset
        self._seed = mix(_SAMPLE, seed)

    def __getitem__(self, key: SampleKey) -> Any:
        epoch, index = key
        seed_cpu(mix(self._seed, epoch, index))
        return self._dataset[index]


class StepBatches:
    """The steps of one rank from a position on, each with its micro-batches."""

    def __init__(
        self, dataset: Dataset[Any], *, plan: RunPlan, rank: Rank, start: Position
    ) -> None:
        self._plan = plan
        self._rank = rank
        self._start = start
        self.samples = sample_count(dataset, key="data.train")
        _require_same_epoch(start, samples=self.samples)
        self._loader = _data_loader(
            dataset, plan.loader, seed=plan.seed, batches=self._keys(), rank=rank
        )

    @property
    def last_step(self) -> int:
        """The number of the step at which training ends."""
        return self._start.step + steps_left(self._start, **self._extent())

    def __iter__(self) -> Iterator[Step]:
        batches = on_device(iter(self._loader), self._rank.device)
        for step in self._steps():
            yield Step(
                number=step.number,
                epoch=step.epoch,
                position=step.end,
                samples=step.samples,
                micro_batches=self._micro_batches(step, batches),
            )

    def _micro_batches(self, step: GlobalStep, batches: Iterator[Any]) -> Iterator[MicroBatch]:
        parts = self._slices(step)
        for number, (_, _, samples) in enumerate(parts, start=1):
            yield MicroBatch(
                batch=next(batches),
                samples=samples,
                share=samples / step.samples,
                last=number == len(parts),
            )

    def _keys(self) -> Iterator[list[SampleKey]]:
        """What the DataLoader fetches: one list of sample keys for each micro-batch."""
        epoch, order = 0, torch.empty(0)
        for step in self._steps():
            if step.epoch != epoch:
                epoch = step.epoch
                order = epoch_order(samples=self.samples, seed=self._plan.seed, epoch=epoch)
            for first, end, _ in self._slices(step):
                yield [(epoch, index) for index in order[first:end].tolist()]

    def _slices(self, step: GlobalStep) -> list[tuple[int, int, int]]:
        return _rank_slices(step, plan=self._plan, rank=self._rank)

    def _steps(self) -> Iterator[GlobalStep]:
        return global_steps(self._start, **self._extent())

    def _extent(self) -> dict[str, Any]:
        train = self._plan.train
        return {
            "samples": self.samples,
            "global_batch_size": train.global_batch_size,
            "limits": train.limits,
        }


class EvalBatches:
    """One rank's share of the evaluation data: over all ranks, each sample exactly once."""

    def __init__(self, dataset: Dataset[Any], *, plan: RunPlan, rank: Rank) -> None:
        samples = sample_count(dataset, key="data.eval")
        everything = GlobalStep(number=0, epoch=0, first=0, end=samples)
        parts = _rank_slices(everything, plan=plan, rank=rank)
        self._samples = SeededSamples(dataset, seed=plan.seed)
        self._compiled = plan.train.compile
        self._device = rank.device
        self._counts = [samples for _, _, samples in parts]
        batches = [[(0, index) for index in range(first, end)] for first, end, _ in parts]
        self._loader = _data_loader(
            dataset, plan.loader, seed=plan.seed, batches=batches, rank=rank
        )

    def first(self) -> Any:
        """The first sample as a batch, on the device, loaded in this process.

        Of a model that is compiled a whole batch, so that nothing is compiled for this one's shape.
        """
        count = max(1, self._counts[0]) if self._compiled else 1
        samples = [self._samples[0, index] for index in range(count)]
        return to_device(default_collate(samples), self._device)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Batches on the device, and how many samples of each count: 0 of a filler."""
        return zip(on_device(iter(self._loader), self._device), self._counts, strict=True)


def _rank_slices(step: GlobalStep, *, plan: RunPlan, rank: Rank) -> list[tuple[int, int, int]]:
    size = plan.train.micro_batch_size
    return slices(step, rank=rank.rank, world_size=rank.world_size, size=size)


def _require_same_epoch(start: Position, *, samples: int) -> None:
    """SpecError where an epoch that is begun would go on over another number of samples."""
    if 0 < start.taken < start.samples != samples:
        raise SpecError(
            f"data.train has {samples} samples, and the run goes on at sample {start.taken} of an "
            f"epoch of {start.samples}: some would be repeated and some skipped. End the epoch "
            "with the same data first, or start a new run"
        )


def sample_count(dataset: Dataset[Any], *, key: str) -> int:
    """The length of a map-style dataset; SpecError, naming the spec's key, for any other."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise SpecError(
            f"{key} returned a {type(dataset).__name__}, which has no length or order; return a "
            "map-style Dataset with __getitem__ and __len__"
        )
    samples = len(dataset)
    if samples == 0:
        raise SpecError(f"{key} returned an empty dataset")
    return samples


def _data_loader(
    dataset: Dataset[Any],
    loader: Loader,
    *,
    seed: int,
    batches: Iterator[list[SampleKey]] | Sequence[list[SampleKey]],
    rank: Rank,
) -> DataLoader[Any]:
    workers = loader.num_workers
    return DataLoader(
        SeededSamples(dataset, seed=seed),
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=loader.prefetch_factor if workers else None,
        persistent_workers=workers > 0,
        pin_memory=loader.pin_memory and rank.device.type == "cuda",
        worker_init_fn=start_loader_worker if workers else None,
    )
