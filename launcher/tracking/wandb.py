"""A W&B run that follows `metrics.jsonl`, as a sink and as the process that feeds it.

How that process is started and ended is written in `tracking.process`.
"""

import argparse
import logging
import math
import os
import select
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import wandb

from launcher import rundir
from launcher.metrics import Follower
from launcher.plan import RunPlan
from launcher.rundir import RunDir
from launcher.tracking.follow import follow
from launcher.tracking.process import PATIENCE_S, longest_end_s, tracking_command

_CONFIG = {"seed", "task", "train", "loader", "evaluation", "strategy", "ranks"}

_log = logging.getLogger(__name__)


class WandbSink:
    """One W&B run. Online it goes on after the rows that W&B has; offline it takes all of them.

    W&B appends the offline records of one run id, and gives rows that it has already new step
    numbers (0.31); earlier releases let one record replace the other. A record that holds the
    whole run is right either way, so the last one is kept alone.
    """

    def __init__(self, run_dir: RunDir, run: wandb.Run) -> None:
        self._run_dir = run_dir
        self._run = run

    @property
    def after_step(self) -> int:
        """The last step of which W&B, or this record, has the row."""
        return self._run.starting_step - 1

    def log(self, row: Mapping[str, float | None]) -> None:
        values = {name: math.nan if value is None else value for name, value in row.items()}
        values["_timestamp"] = values["time"]
        self._run.log(values, step=int(values["step"]), commit=True)

    def close(self) -> None:
        """TimeoutError when the service does not take the rest in time; the local record has it."""
        outcome = self._run_dir.read_json(rundir.OUTCOME) or {"status": "lost"}
        self._run.summary["status"] = outcome["status"]
        self._run.finish(exit_code=0 if outcome["status"] in ("succeeded", "stopped") else 1)
        own = _started(Path(self._run.dir).parent)
        for record in self._run_dir.local(rundir.WANDB).glob("*run-*"):
            if _started(record) < own:
                shutil.rmtree(record)


def _started(record: Path) -> str:
    """`offline-run-20261122_140238-<id>` and `run-20261122_140238-<id>` in the order of time."""
    return record.name.removeprefix("offline-")


def start_run(
    run_dir: RunDir, plan: RunPlan, *, mode: Literal["online", "offline"], patience_s: float
) -> wandb.Run:
    """Begins or continues the W&B run that has the id of this run."""
    (tracking,) = plan.tracking
    run = wandb.init(
        dir=run_dir.local(),
        id=plan.run_id,
        name=plan.run_id,
        group=plan.name,
        project=tracking.project,
        entity=tracking.entity or None,
        tags=tracking.tags,
        mode=mode,
        resume="allow" if mode == "online" else None,
        config=plan.model_dump(mode="json", include=_CONFIG),
        settings=wandb.Settings(
            init_timeout=patience_s,
            finish_timeout=patience_s,
            finish_timeout_raises=True,
            console="off",
            silent=True,
            symlink=False,
            disable_code=True,
            disable_git=True,
            save_code=False,
            label_disable=True,
            # What W&B would collect about this host is in record.json, without the user's name.
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    run.define_metric("*", step_metric="step")
    url = "" if mode == "offline" else run.url
    state = {"schema": 1, "id": plan.run_id, "project": tracking.project, "mode": mode, "url": url}
    run_dir.write_json(rundir.WANDB_RUN, state)
    return run


def track(run_dir: RunDir, *, ended: threading.Event, patience_s: float) -> bool:
    """Streams the run until `ended`. False: rows are missing where the plan wants them."""
    plan = RunPlan.model_validate_json(run_dir.read(rundir.PLAN))
    log_size = run_dir.local(rundir.WANDB_LOG).stat().st_size
    mode = plan.tracking[0].mode
    try:
        run = start_run(run_dir, plan, mode=mode, patience_s=patience_s)
    except wandb.Error as error:
        if mode == "offline":
            raise
        _log.warning("event=online_refused error=%r now=offline %s", str(error), _remedy(run_dir))
        wandb.teardown()  # it holds on to the run id
        run = start_run(run_dir, plan, mode="offline", patience_s=patience_s)
    sink = WandbSink(run_dir, run)
    follower = Follower(run_dir, after_step=sink.after_step)
    follow(follower, sink, ended=ended)
    follower.close()
    try:
        sink.close()
    except TimeoutError:
        _log.warning("event=upload_cut_short waited_s=%g %s", patience_s, _remedy(run_dir))
        return False
    if _refused(run_dir, since=log_size):
        _log.warning("event=upload_refused %s", _remedy(run_dir))
        return False
    return run.offline == (mode == "offline")


def _refused(run_dir: RunDir, *, since: int) -> bool:
    """Whether W&B gave up uploading, on a 403 for example, which `finish` does not tell."""
    return b"Fatal error while uploading data" in run_dir.read(rundir.WANDB_LOG)[since:]


def _remedy(run_dir: RunDir) -> str:
    """Sends the rows that W&B has not."""
    return f'remedy="{shlex.join(tracking_command(run_dir))} < /dev/null"'


def _await_driver(ended: threading.Event, *, driver: int, bound_s: float) -> None:
    """Sets `ended` when the driver closes its end of stdin or is gone, and bounds what follows.

    The process is watched beside the pipe, of which a forked rank holds a copy.
    """
    while os.getppid() == driver and not select.select([sys.stdin], [], [], 1.0)[0]:
        pass
    ended.set()
    bound = threading.Timer(bound_s, os._exit, [1])
    bound.daemon = True
    bound.start()


def main(path: str, *, patience_s: float, driver: int) -> int:
    """Follows the run in `path` until the driver, a process id, ends it; the exit code."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # SIGINT is also W&B's stop button
        signal.signal(stop, signal.SIG_IGN)
    os.nice(10)  # the ranks come first
    run_dir, ended = RunDir(path), threading.Event()
    until = {"driver": driver, "bound_s": longest_end_s(patience_s)}
    threading.Thread(target=_await_driver, args=[ended], kwargs=until, daemon=True).start()
    lock = run_dir.local(rundir.WANDB_LOCK)
    lock.parent.mkdir(exist_ok=True)
    with lock.open("ab") as file:
        # After a driver was killed, its tracking process may still be sending.
        os.lockf(file.fileno(), os.F_LOCK, 0)
        return 0 if track(run_dir, ended=ended, patience_s=patience_s) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m launcher.tracking.wandb")
    parser.add_argument("run_dir")
    parser.add_argument("--patience-s", type=float, default=PATIENCE_S)
    parser.add_argument("--driver", type=int, default=os.getppid())
    asked = parser.parse_args()
    sys.exit(main(asked.run_dir, patience_s=asked.patience_s, driver=asked.driver))
