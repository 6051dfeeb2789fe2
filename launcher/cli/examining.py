"""`doctor`: what keeps this machine, or a cluster, from training.

What is looked at, and what it means, is known to `doctor`.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

from launcher import doctor as examination
from launcher.cli.asking import (
    DEFAULT_STORAGE,
    absolute_storage,
    checked_spec,
    output_option,
    overrides_option,
    put,
    storage_option,
)
from launcher.cli.clusters import known_clusters
from launcher.cli.jobs import conduct, exit_code_of, open_jobs, shared_storage
from launcher.doctor import Check
from launcher.doctor.versions import own_versions
from launcher.errors import ClusterError, ExitCode, SpecError

_START_TIMEOUT_S = 60.0


@click.command()
@click.argument("spec", type=click.Path(path_type=Path), required=False)
@overrides_option
@click.option("--cluster", default=None, metavar="NAME", help="Its name, or http://HEAD:8265.")
@storage_option
@output_option
def doctor(
    spec: Path | None,
    overrides: tuple[str, ...],
    cluster: str | None,
    storage: str | None,
    output: str,
) -> None:
    """Check this machine, and name the fix for what fails.

    With --cluster, check that Ray cluster from the inside, and whether it can train SPEC.
    """
    if cluster is not None:
        _examine_there(spec, overrides, cluster=cluster, storage=storage, output=output)
    if spec is not None:
        raise SpecError(
            f"{spec} is checked against a cluster: add --cluster NAME; for this machine, "
            f"`launcher plan {spec}` does it"
        )
    place = absolute_storage(storage or DEFAULT_STORAGE)
    report(examination.examine(place), output=output)


def report(checks: Iterable[Check], *, output: str) -> NoReturn:
    """Prints each check as soon as it is known, and exits with 3 when one failed."""
    known = []
    for check in checks:
        known.append(check)
        if output == "text":
            fix = f" -> {check.fix}" if check.fix else ""
            click.echo(f"{check.status:<4} {check.name}: {check.finding}{fix}")
    failed = any(check.status == "FAIL" for check in known)
    if output == "json":
        put({"schema": 1, "ok": not failed, "checks": [asdict(check) for check in known]})
    sys.exit(ExitCode.PREFLIGHT if failed else ExitCode.SUCCEEDED)


def _examine_there(
    spec: Path | None,
    overrides: Sequence[str],
    *,
    cluster: str,
    storage: str | None,
    output: str,
) -> NoReturn:
    """Sends the spec's folder as `submit` does, so that the cluster's own plan is looked at."""
    there = known_clusters().find(cluster)
    checked = checked_spec(spec, overrides) if spec else None
    place = storage or (checked and checked.storage) or there.storage
    command = ["job", "doctor", *([spec.name] if spec else [])]
    command += [f"--set={override}" for override in overrides]
    command += [f"--storage={shared_storage(place, there)}"] if place else []
    command += [f"--version={name}={own}" for name, own in own_versions().items()]
    folder = spec.absolute().parent if spec else None
    from launcher.packing import upload_list  # needs a package that hosts have no use for

    files = upload_list(folder) if folder else ()
    jobs = open_jobs(there)
    command += ["--open-to-all"] if jobs.open_to_all() else []
    job = conduct(
        jobs,
        "doctor",
        [*command, f"--output={output}"],
        folder=folder,
        files=files,
        start_timeout_s=_START_TIMEOUT_S,
        there=there,
        output=output,
    )
    if job.state == "FAILED" and job.exit_code is None:
        raise ClusterError(f"cluster {there} could not run the examination: {job.message}")
    sys.exit(exit_code_of(job))
