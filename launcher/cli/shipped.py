"""`job`: what a submitted job runs on the cluster's head. Not for people, and not shown to them.

It trains as `run` and `resume` do, against what the cluster has, in a copy of the code that stays
with the run.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from launcher import rundir
from launcher.cli.asking import (
    find_run,
    output_option,
    overrides_option,
    plan_spec,
    spec_argument,
    wait_timeout_option,
)
from launcher.cli.examining import report
from launcher.cli.training import at_work, go_on, train
from launcher.engines import EngineChoice
from launcher.errors import LauncherError, StorageError
from launcher.history import refusal
from launcher.plan import RunPlan
from launcher.resources import Resources
from launcher.rundir import RunDir
from launcher.storage import storage_errors


@click.group(hidden=True)
def job() -> None:
    """Train on the Ray cluster that this process belongs to."""


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
    with at_work(run_dir) as (here, hold), _refusals_kept(run_dir):
        _keep_code(here)
        asked = plan_spec(
            here.local(rundir.CODE) / spec,
            overrides=overrides,
            storage=storage,
            code_url=run_dir.path(rundir.CODE),
            resources=_cluster_resources(),
            run_id=run_id,
        )
        engine = _here(wait_timeout_s)
        train(here, asked, overrides, engine, hold=hold, output="text")


@job.command("resume")
@click.argument("run")
@overrides_option
@click.option("--storage", required=True)
@wait_timeout_option
@output_option
def resume_job(
    run: str, overrides: tuple[str, ...], storage: str, wait_timeout_s: float, output: str
) -> None:
    """Go on with RUN."""
    run_dir = find_run(run, storage)
    go_on(
        run_dir,
        overrides,
        output=output,
        engine=_here(wait_timeout_s),
        resources=_cluster_resources(),
    )


@job.command("doctor")
@click.argument("spec", type=click.Path(path_type=Path), required=False)
@overrides_option
@click.option("--storage", default="")
@click.option("--version", "versions", multiple=True, help="NAME=VERSION on the asker's machine.")
@click.option("--open-to-all", is_flag=True, help="The cluster asked for no token.")
@output_option
def examine_job(
    spec: Path | None,
    overrides: tuple[str, ...],
    storage: str,
    versions: tuple[str, ...],
    open_to_all: bool,
    output: str,
) -> None:
    """Examine the cluster, and whether it can train SPEC."""
    from launcher.doctor.cluster import Visit, examine_cluster

    def plan(resources: Resources) -> RunPlan:
        assert spec
        return plan_spec(spec, overrides=overrides, storage=storage, resources=resources).plan

    visit = Visit(
        versions=dict(version.split("=", 1) for version in versions),
        open_to_all=open_to_all,
        storage=storage,
        plan=plan if spec else None,
    )
    report(examine_cluster(visit), output=output)


def _keep_code(here: RunDir) -> None:
    """Puts the folder that was sent beside the run: a later resume trains with it."""
    code = here.local(rundir.CODE)
    with storage_errors(str(code)):
        shutil.copytree(Path(), code)
    if here.folder:
        files = [path for path in code.rglob("*") if path.is_file()]
        here.bring(*(str(file.relative_to(here.local())) for file in files))


@contextlib.contextmanager
def _refusals_kept(run_dir: RunDir) -> Iterator[None]:
    """The person who submitted it has no other word from here than the run's directory."""
    try:
        yield
    except LauncherError as error:
        with contextlib.suppress(StorageError):
            outcome = refusal(run_dir, error).model_dump(mode="json")
            run_dir.write_json(rundir.OUTCOME, outcome)
        raise


def _here(wait_timeout_s: float) -> EngineChoice:
    return EngineChoice("ray", address="auto", wait_timeout_s=wait_timeout_s)


def _cluster_resources() -> Resources:
    from launcher.engines.ray import cluster

    cluster.connect("auto", cpus=0)
    return cluster.resources()
