"""Introduces DeepSpeed to the process group that the ranks have, and keeps it quiet."""

import logging
import warnings

import deepspeed


def join() -> None:
    """Once in a process; called by every rank, before anything else of DeepSpeed's."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # It would compile this operation for 20 s, and only inference uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
