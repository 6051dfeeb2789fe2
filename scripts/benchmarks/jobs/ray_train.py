"""The peer on a Ray cluster: Ray Train's minimal example, for the model of char_gpt.yaml."""

import json
import os
import sys
from typing import Any

import ray.train
import torch
import workload
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_data_loader, prepare_model
from torch.utils.data import DataLoader


def train_loop(config: dict[str, Any]) -> None:
    """Trains for so many steps; StampedAdamW notes the end of each."""
    os.environ["RANK"] = str(ray.train.get_context().get_world_rank())
    torch.set_num_threads(1)
    model = prepare_model(workload.gpt())
    loader = prepare_data_loader(DataLoader(workload.gpt_data(), batch_size=4, shuffle=True))
    optimizer = workload.StampedAdamW(model.parameters(), lr=0.003, weight_decay=0.1)
    steps = 0
    while steps < config["steps"]:
        for inputs, labels in loader:
            workload.gpt_loss(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if steps == config["steps"]:
                return


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    TorchTrainer(
        train_loop,
        train_loop_config={"steps": asked["steps"]},
        scaling_config=ScalingConfig(num_workers=tuple(asked["ranks"])),
        run_config=RunConfig(
            storage_path=asked["storage"], failure_config=FailureConfig(max_failures=3)
        ),
    ).fit()
