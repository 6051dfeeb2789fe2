"""The peer of strategy deepspeed: DeepSpeed's engine in the loop that its tutorial shows.

torchrun starts it; optimizer, clipping and batches are the launcher's. It logs nothing.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
import workload
from bare import BATCH_PER_RANK, LEARNING_RATE, batches
from torch.optim.lr_scheduler import CosineAnnealingLR

TAG = "saved"


def main(job: str, stage: int, steps: int, save_every: int, save_to: Path) -> None:
    """Trains for so many steps; writes how long saves, and the load of the last, took."""
    torch.manual_seed(1)
    deepspeed.init_distributed("gloo")
    engine, schedule = start(job, stage)
    loss_of = getattr(workload, f"{job}_loss")
    saves: list[float] = []
    for step, (inputs, labels) in enumerate(batches(job, steps), start=1):
        engine.backward(loss_of(engine(inputs), labels))
        engine.step()
        schedule.step()
        if save_every and step % save_every == 0:
            started = time.perf_counter()
            engine.save_checkpoint(save_to, tag=TAG)
            saves.append(time.perf_counter() - started)
    if saves:
        load_s = load(job, stage, save_to)
        if dist.get_rank() == 0:
            (save_to / "times.json").write_text(json.dumps({"saves": saves, "load_s": load_s}))
    dist.destroy_process_group()


def start(job: str, stage: int) -> tuple[Any, CosineAnnealingLR]:
    """A new engine, and its schedule."""
    model = getattr(workload, job)()
    optimizer = workload.StampedAdamW(
        model.parameters(), lr=LEARNING_RATE[job], weight_decay=0.1, fused=True
    )
    config = {
        "train_micro_batch_size_per_gpu": BATCH_PER_RANK[job],
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, CosineAnnealingLR(optimizer, T_max=900)


def load(job: str, stage: int, folder: Path) -> float:
    """Seconds until a new engine has what was saved."""
    started = time.perf_counter()
    engine, _ = start(job, stage)
    engine.load_checkpoint(folder, tag=TAG)
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
