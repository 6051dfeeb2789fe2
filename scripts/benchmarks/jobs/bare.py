"""The peer: a DDP loop as one writes it by hand, with no feature beyond it; torchrun starts it.

Its AdamW is fused and its gradients are views of DDP's buckets, as the launcher has them: what a
careful author would write. It logs nothing.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import workload
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, DistributedSampler

BATCH_PER_RANK = {"gpt": 4, "mlp": 32}
LEARNING_RATE = {"gpt": 0.003, "mlp": 0.0003}


def main(job: str, steps: int, save_every: int, save_to: Path) -> None:
    """Trains for so many steps; writes how long each save took to saves.json."""
    torch.manual_seed(1)
    dist.init_process_group("gloo")
    model = DistributedDataParallel(getattr(workload, job)(), gradient_as_bucket_view=True)
    loss_of = getattr(workload, f"{job}_loss")
    optimizer = workload.StampedAdamW(
        model.parameters(), lr=LEARNING_RATE[job], weight_decay=0.1, fused=True
    )
    schedule = CosineAnnealingLR(optimizer, T_max=900)
    saves: list[float] = []
    for step, (inputs, labels) in enumerate(batches(job, steps), start=1):
        loss_of(model(inputs), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if save_every and step % save_every == 0 and dist.get_rank() == 0:
            saves.append(save(model.module, optimizer, save_to / f"{step}.pt"))
    if saves:
        (save_to / "saves.json").write_text(json.dumps(saves))
    dist.destroy_process_group()


def batches(job: str, steps: int) -> Iterator[Any]:
    """So many of this rank's, over as many epochs as that takes."""
    data = getattr(workload, f"{job}_data")()
    sampler: DistributedSampler[Any] = DistributedSampler(data, seed=1)
    loader = DataLoader(data, batch_size=BATCH_PER_RANK[job], sampler=sampler, drop_last=True)
    for epoch in range(1, 2 + steps // len(loader)):
        sampler.set_epoch(epoch)
        yield from itertools.islice(loader, steps - (epoch - 1) * len(loader))


def save(model: nn.Module, optimizer: torch.optim.Optimizer, file: Path) -> float:
    """Seconds that torch.save took; like most scripts it does not wait for the disk."""
    started = time.perf_counter()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
