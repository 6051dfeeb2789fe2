"""The samples of each step of the tiny job, in the order that the contract promises."""

from launcher.data.order import epoch_order
from tests.job import GLOBAL_BATCH_SIZE, MAX_EPOCHS, SAMPLES, SEED


def promised_steps(*, batch: int = GLOBAL_BATCH_SIZE) -> list[list[int]]:
    """Sample indices, step by step, over all epochs."""
    orders = [
        epoch_order(samples=SAMPLES, seed=SEED, epoch=epoch).tolist()
        for epoch in range(1, MAX_EPOCHS + 1)
    ]
    return [order[at : at + batch] for order in orders for at in range(0, SAMPLES, batch)]
