"""Commands that run as jobs on a cluster's head: this command line again, beside the runs.

What a job is, is known to `cluster`; here its output is told apart, and its end becomes ours.
"""

import json
import math
import re
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from launcher.cli.asking import put, say
from launcher.cli.clusters import known_clusters
from launcher.cluster.names import Cluster
from launcher.errors import ClusterError, ExitCode, SpecError

if TYPE_CHECKING:  # importing Ray costs half a second: what needs it does so when all is checked
    from launcher.cluster.jobs import Job, Jobs
    from launcher.packing import Packed

_EXIT_CODES = {"STOPPED": ExitCode.STOPPED, "FAILED": ExitCode.LOST, "SUCCEEDED": 0}
"""Of a job whose command did not exit by itself."""
_FIRST_OF_SIGNALS = 128
"""A shell says so of a command that a signal ended."""
_RUN = "launcher_run"
_POLL_S = 0.3
_MARK = "launcher-output-begins"
_HINT = re.compile(r"^(?:logs|go on): launcher .*$", re.MULTILINE)
_ENTRYPOINT = re.compile(r"^Running entrypoint for job launcher-.*\n", re.MULTILINE)


def run_there(
    arguments: Sequence[str], *, cluster: str, storage: str | None, output: str
) -> NoReturn:
    """Prints what the command prints there, as it prints it, and exits as it does."""
    there = known_clusters().find(cluster)
    place = shared_storage(storage or there.storage, there)
    jobs = open_jobs(there)
    _await_run(jobs, arguments)
    verb = next(word for word in arguments if word != "job")
    job = conduct(jobs, verb, [*arguments, f"--storage={place}"], there=there, output=output)
    if job.state == "FAILED" and job.exit_code is None:
        say(f"error: the job did not start: {job.message}")
    sys.exit(exit_code_of(job))


def conduct(
    jobs: "Jobs",
    verb: str,
    arguments: Sequence[str],
    *,
    folder: Path | None = None,
    files: "Sequence[Packed]" = (),
    start_timeout_s: float = math.inf,
    there: Cluster,
    output: str,
) -> "Job":
    """The job of a command, once it ended; meanwhile it prints what the command prints there."""
    job_id = f"launcher-{verb}-{secrets.token_hex(4)}"
    jobs.submit(
        job_id,
        f"echo {_MARK}; exec {remote_command(arguments)}",
        folder=folder,
        files=files,
        metadata={"launcher_command": verb},
    )
    _await_start(jobs, job_id, timeout_s=start_timeout_s)
    text = _after_mark(jobs.follow(job_id))
    if output == "json":
        _put_document("".join(text))
    else:
        for piece in text:
            click.echo(with_cluster(piece, there), nl=False)
    return jobs.wait(job_id)


def with_cluster(text: str, cluster: Cluster) -> str:
    """What was printed on the head, its hints for the machine of the person who reads them."""
    return _HINT.sub(lambda hint: f"{hint[0]} --cluster {cluster}", text)


def _await_start(jobs: "Jobs", job_id: str, *, timeout_s: float) -> None:
    """ClusterError when the job has not started in time."""
    deadline = time.monotonic() + timeout_s
    while math.isfinite(deadline) and jobs.get(job_id).state == "PENDING":
        if time.monotonic() > deadline:
            raise ClusterError(
                f"the cluster took job {job_id} and has not started it within {timeout_s:g} s; "
                "look at its head, and at the job on its dashboard"
            )
        time.sleep(_POLL_S)


def _await_run(jobs: "Jobs", arguments: Sequence[str]) -> None:
    """Returns when the run that is meant is there to see, if a job is about to start it."""
    mine = [job for job in jobs.all() if _RUN in job.metadata]
    meant = [
        job for job in mine for word in arguments if word and job.metadata[_RUN].startswith(word)
    ] or (mine[-1:] if "@last" in arguments else [])
    for job in meant[-1:]:
        while not jobs.get(job.id).ended and f"run {job.metadata[_RUN]} in " not in jobs.output(
            job.id
        ):
            time.sleep(_POLL_S)


def open_jobs(cluster: Cluster) -> "Jobs":
    """The jobs of a cluster; ClusterError where it does not answer."""
    from launcher.cluster.jobs import Jobs

    return Jobs(cluster)


def remote_command(arguments: Sequence[str]) -> str:
    """This command line, for a shell on the head."""
    return shlex.join(["python", "-m", "launcher", *arguments])


def shared_storage(storage: str | None, cluster: Cluster) -> str:
    """SpecError where a folder cannot be the same one on every host."""
    if storage and "://" in storage:
        return storage
    if not storage or not Path(storage).is_absolute():
        raise SpecError(
            f"storage is {storage or 'absent'}, and hosts of {cluster} need a place that all of "
            "them reach; name it: --storage /SHARED/runs or s3://BUCKET/runs, `storage:` in the "
            f"spec, or once for all: launcher cluster add {cluster.name or 'NAME'} "
            f"{cluster.url} --storage /SHARED/runs"
        )
    return storage


def exit_code_of(job: "Job") -> int:
    """That of its command; of a job that did not come to that, by its state."""
    code = job.exit_code
    if code is not None and 0 <= code < _FIRST_OF_SIGNALS:
        return code
    return _EXIT_CODES.get(job.state, ExitCode.BUG)


def _after_mark(output: Iterator[str]) -> Iterator[str]:
    """Without what Ray says before the command starts; it may name the command a moment later."""
    seen = ""
    for piece in output:
        seen += piece
        _, mark, rest = seen.partition(f"\n{_MARK}\n")
        if mark:
            yield _ENTRYPOINT.sub("", rest)
            break
    for piece in output:
        yield _ENTRYPOINT.sub("", piece)


def _put_document(text: str) -> None:
    """A job's news and data come in one stream: the JSON document is data, the rest is news."""
    start = ("\n" + text).rfind("\n{\n")
    try:
        document, length = json.JSONDecoder().raw_decode(text[start:])
    except ValueError:
        click.echo(text, nl=False, err=True)
        return
    click.echo(text[:start] + text[start + length :].lstrip("\n"), nl=False, err=True)
    put(document)
