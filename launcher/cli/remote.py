"""`--cluster` for commands about runs: the same command as a job on the head, beside the runs."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from launcher.cli.jobs import run_there

F = TypeVar("F", bound=Callable[..., Any])


def also_on_cluster(command: F) -> F:
    """Adds `--cluster`; stands below the command's other options, above its function."""

    @click.option("--cluster", default=None, metavar="NAME", help="Do it on that Ray cluster.")
    @click.pass_context
    @functools.wraps(command)
    def wrapped(context: click.Context, /, *, cluster: str | None, **values: Any) -> Any:
        if cluster is None:
            return command(**values)
        run_there(
            [str(context.info_name), *_arguments(context.command, values)],
            cluster=cluster,
            storage=values.get("storage"),
            output=values.get("output", "text"),
        )

    return wrapped  # type: ignore[return-value]


def _arguments(command: click.Command, values: dict[str, Any]) -> Iterator[str]:
    """The values of a command as the words that would give them, without where it looks."""
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if isinstance(parameter, click.Argument):
            yield str(value)
        elif parameter.name != "storage" and not (value is None or value is False or value == ()):
            name = max(parameter.opts, key=len)
            yield name if value is True else f"{name}={value}"
