"""One of two ranks that train several plans one after the other, with one start for all of them.

`tests.integration.test_deepspeed` starts both: `python -m tests.rank_series RANK STORE RUN_DIR...`,
where each run's directory has its plan.
"""

import sys

import torch
import torch.distributed as dist

from launcher import rundir
from launcher.contracts import Attempt
from launcher.distributed import Rank, rank_environment, set_environment
from launcher.plan import RunPlan
from launcher.rundir import RunDir
from launcher.worker import Place, run_rank


def main(number: int, store: str, run_dirs: list[str]) -> None:
    """Exits with what went wrong, if anything did."""
    rank = Rank(number, 2, number, 2, torch.device("cpu"))
    set_environment(rank_environment(rank, rendezvous=None, threads=1))
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=number, world_size=2)
    for folder in run_dirs:
        run_dir = RunDir(folder)
        plan = RunPlan.model_validate(run_dir.read_json(rundir.PLAN))
        place = Place(rank, rendezvous=None, stop_wanted=lambda: False, beat=lambda: None)
        end = run_rank(Attempt(plan, run_dir, number=1, checkpoint=""), place)
        if end.failure:
            sys.exit(end.failure.message)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
