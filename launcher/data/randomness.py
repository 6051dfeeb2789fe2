"""Seeds as functions of what is computed, never of the process that computes it.

Sample order is `order`'s; who calls these functions, and when, is the loader's and the loop's.
"""

import random
from importlib import import_module
from importlib.util import find_spec

import torch

_MASK = (1 << 64) - 1
_NUMPY_RANDOM = import_module("numpy.random") if find_spec("numpy") else None
"""torch does without numpy; where it is there, a dataset may draw from it."""


def mix(*parts: int) -> int:
    """A well-spread 64-bit number of a tuple of integers, the same on every machine.

    Folds the parts through the SplitMix64 finalizer (Steele, Lea, Flood 2014, "Fast splittable
    pseudorandom number generators").
    """
    state = 0
    for part in parts:
        z = ((state ^ part) + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        state = z ^ (z >> 31)
    return state


def seed_cpu(seed: int) -> None:
    """Seeds torch's CPU generator, `random` and numpy's global one, if there is numpy: about 8 us.

    `torch.manual_seed` would visit every device and cost twenty times as much.
    """
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if _NUMPY_RANDOM:
        _NUMPY_RANDOM.seed(seed & 0xFFFFFFFF)


def seed_rank(seed: int) -> None:
    """Seeds everything that a forward pass may draw from on this rank."""
    seed_cpu(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
