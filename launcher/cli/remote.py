"""`--cluster` for commands about runs: the same command as a job on the head, beside the runs."""

import functools
import json
import math
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import click

from launcher.cli.asking import put
from launcher.cli.clusters import known_clusters
from launcher.cli.submitting import exit_code_of, open_jobs, remote_command, shared_storage

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "launcher-output-begins"
_ENTRYPOINT = re.compile(r"^Running entrypoint for job launcher-.*\n", re.MULTILINE)


def also_on_cluster(command: F) -> F:
    """Adds `--cluster`; stands below the command's other options, above its function."""

    @click.option("--cluster", default=None, metavar="NAME", help="Do it on that Ray cluster.")
    @click.pass_context
    @functools.wraps(command)
    def wrapped(context: click.Context, /, *, cluster: str | None, **values: Any) -> Any:
        if cluster is None:
            return command(**values)
        return _run_there(cluster, context, values)

    return wrapped  # type: ignore[return-value]


def _run_there(name: str, context: click.Context, values: dict[str, Any]) -> NoReturn:
    """Prints what the command prints there, as it prints it, and exits as it does."""
    cluster = known_clusters().find(name)
    values["storage"] = shared_storage(values.get("storage") or cluster.storage, cluster)
    verb = str(context.info_name)
    command = remote_command([verb, *_arguments(context.command, values)])
    jobs = open_jobs(cluster)
    job_id = f"launcher-{verb}-{secrets.token_hex(4)}"
    jobs.submit(
        job_id,
        f"echo {_MARK}; exec {command}",
        folder=None,
        files=(),
        metadata={"launcher_command": verb},
    )
    text = _after_mark(jobs.follow(job_id, timeout_s=math.inf))
    if values.get("output") == "json":
        _put_document("".join(text))
    else:
        for piece in text:
            click.echo(piece, nl=False)
    sys.exit(exit_code_of(jobs.wait(job_id, timeout_s=math.inf)))


def _arguments(command: click.Command, values: dict[str, Any]) -> Iterator[str]:
    """The values of a command as the words that would give them; `--cluster` is none of them."""
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if isinstance(parameter, click.Argument):
            yield str(value)
        elif isinstance(parameter, click.Option) and value not in (None, False, ()):
            for each in value if parameter.multiple else (value,):
                name = max(parameter.opts, key=len)
                yield name if parameter.is_flag else f"{name}={each}"


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
    start = text.find("{\n")
    try:
        document, length = json.JSONDecoder().raw_decode(text[start:])
    except ValueError:
        click.echo(text, nl=False, err=True)
        return
    click.echo(text[:start] + text[start + length :].lstrip("\n"), nl=False, err=True)
    put(document)
