"""`submit`: from this machine to a job on a cluster."""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import click

from launcher import packing
from launcher.cli.asking import (
    checked_spec,
    fresh_id,
    output_option,
    put,
    say,
    spec_argument,
    wait_timeout_option,
)
from launcher.cli.clusters import known_clusters
from launcher.cli.jobs import (
    exit_code_of,
    open_jobs,
    remote_command,
    run_there,
    shared_storage,
    with_cluster,
)
from launcher.cluster.names import Cluster

_LAST_LINES = 5


@click.command()
@spec_argument
@click.option("--cluster", required=True, metavar="NAME", help="Its name, or http://HEAD:8265.")
@click.option(
    "--storage", default=None, metavar="PLACE", help="Folder or URL that all its hosts reach."
)
@wait_timeout_option
@click.option("--follow", is_flag=True, help="Print its output until it ends, and exit as it did.")
@click.option("--wait", is_flag=True, help="Wait until it ends, and exit as it did.")
@output_option
def submit(
    spec: Path,
    overrides: tuple[str, ...],
    cluster: str,
    storage: str | None,
    wait_timeout_s: float,
    follow: bool,
    wait: bool,
    output: str,
) -> None:
    """Train SPEC on a Ray cluster."""
    there = known_clusters().find(cluster)
    checked = checked_spec(spec, overrides)
    folder = spec.absolute().parent
    files = packing.upload_list(folder)
    run_id = fresh_id(checked.name)
    place = shared_storage(storage or checked.storage or there.storage, there)
    command = ["job", "run", spec.name, f"--run-id={run_id}", f"--storage={place}"]
    command += _changes(overrides, wait_timeout_s)
    jobs = open_jobs(there)
    jobs.submit(
        run_id,
        remote_command(command),
        folder=folder,
        files=files,
        metadata={"launcher_run": run_id, "launcher_storage": place},
    )
    _announce(run_id, there, place, output=output)
    if follow or wait:
        for text in jobs.follow(run_id) if follow else ():
            click.echo(with_cluster(text, there), nl=False, err=output == "json")
        job = jobs.wait(run_id)
        if not follow:
            say(with_cluster(_last_words(jobs.output(run_id), run_id), there))
        sys.exit(exit_code_of(job))


def resume_there(
    run: str,
    overrides: Sequence[str],
    *,
    cluster: str,
    storage: str | None,
    wait_timeout_s: float,
    output: str,
) -> NoReturn:
    """Goes on with a run on a cluster; it has its code beside it."""
    run_there(
        ["job", "resume", run, *_changes(overrides, wait_timeout_s), f"--output={output}"],
        cluster=cluster,
        storage=storage,
        output=output,
    )


def _changes(overrides: Sequence[str], wait_timeout_s: float) -> Iterator[str]:
    if wait_timeout_s < math.inf:
        yield f"--wait-timeout={wait_timeout_s}"
    yield from (f"--set={override}" for override in overrides)


def _last_words(output: str, run_id: str) -> str:
    """How the run ended, as it said itself; else the last lines of whatever ended it."""
    lines = output.splitlines()
    ends = [number for number, line in enumerate(lines) if line.startswith(f"{run_id} ")]
    return "\n".join(lines[ends[-1] :] if ends else lines[-_LAST_LINES:])


def _announce(run_id: str, cluster: Cluster, storage: str, *, output: str) -> None:
    if output == "json":
        url = f"{cluster.url}/#/jobs/{run_id}"
        put({"schema": 1, "run_id": run_id, "storage": storage, "dashboard": url})
        return
    where = f"--cluster {cluster} --storage {storage}"
    click.echo(run_id)
    say(f"dashboard: {cluster.url}/#/jobs/{run_id}")
    say(f"progress:  launcher logs {run_id} -f {where}")
    say(f"how it is: launcher show {run_id} {where}")
    say(f"end it:    launcher stop {run_id} {where}")
