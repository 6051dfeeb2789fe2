"""`job`: what a submitted job runs on the cluster's head. Not for people, and not shown to them.

It trains as `run` and `resume` do, against what the cluster has, in a copy of the code that stays
with the run.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import click

from launcher import rundir
from launcher.cli.asking import find_run, overrides_option, plan_spec, spec_argument
from launcher.cli.training import go_on, train
from launcher.engines import EngineChoice
from launcher.resources import Resources


@click.group(hidden=True)
def job() -> None:
    """Train on the Ray cluster that this process belongs to."""


def wait_timeout_option(command: Any) -> Any:
    return click.option(
        "--wait-timeout",
        "wait_timeout_s",
        type=float,
        default=math.inf,
        help="Seconds to wait for room on the cluster; then exit with 5.  [default: for ever]",
    )(command)


@job.command("run")
@spec_argument
@click.option("--run-id", required=True)
@click.option("--storage", required=True)
@wait_timeout_option
def run_job(
    spec: Path, overrides: tuple[str, ...], run_id: str, storage: str, wait_timeout_s: float
) -> None:
    """Train SPEC, a path below the folder that was sent."""
    run_dir = rundir.create(storage, run_id)
    code = run_dir.local(rundir.CODE)
    with rundir.storage_errors(str(code)):
        shutil.copytree(Path(), code)
    asked = plan_spec(
        code / spec,
        overrides=overrides,
        storage=storage,
        resources=_cluster_resources(),
        run_id=run_id,
    )
    train(run_dir, asked, overrides, _here(wait_timeout_s), output="text")


@job.command("resume")
@click.argument("run")
@overrides_option
@click.option("--storage", required=True)
@wait_timeout_option
def resume_job(run: str, overrides: tuple[str, ...], storage: str, wait_timeout_s: float) -> None:
    """Go on with RUN."""
    run_dir = find_run(run, storage)
    go_on(
        run_dir,
        overrides,
        output="text",
        engine=_here(wait_timeout_s),
        resources=_cluster_resources(),
    )


def _here(wait_timeout_s: float) -> EngineChoice:
    return EngineChoice("ray", address="auto", wait_timeout_s=wait_timeout_s)


def _cluster_resources() -> Resources:
    from launcher.engines.ray import cluster

    cluster.connect("auto", cpus=0)
    return cluster.resources()
