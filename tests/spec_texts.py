"""Job specs as text, for tests that read them."""

from launcher import specfile

EXAMPLE = """\
name: digits-cnn                  # [a-z0-9-], names the run
seed: 7
model:  {target: digits:DigitsCNN, args: {width: 32}}
data:
  train: {target: digits:digits, args: {split: train}}
  eval:  {target: digits:digits, args: {split: test}}
  loader: {num_workers: 2, prefetch_factor: 4, pin_memory: true}
train:
  loss: torch.nn:CrossEntropyLoss
  optimizer: {target: torch.optim:AdamW, args: {lr: 3e-3}}
  schedule:
    {target: torch.optim.lr_scheduler:CosineAnnealingLR, args: {T_max: 500}, warmup_steps: 20}
  global_batch_size: 128
  micro_batch_size: 64
  max_epochs: 12
  precision: bf16
  clip_grad_norm: 1.0
  compile: false
eval: {every_steps: 100, metrics: [accuracy]}
strategy: ddp
resources: {world_size: 2, cpus_per_rank: 1, gpus_per_rank: 0}
checkpoint: {every_steps: 50, keep_last: 3}
retries: {node_loss: 3, crash: 1, hang: 1}
tracking: {wandb: {project: digits}}
storage: runs
"""

SMALL = """\
name: small
model: digits:DigitsCNN
train: {optimizer: torch.optim:AdamW, global_batch_size: 8}
"""


def lines(document: specfile.Document) -> list[str]:
    """What is wrong with it, a line each."""
    return document.describe(document.problems).splitlines()
