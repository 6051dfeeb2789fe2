"""`validate`, `explain`, `schema` and `plan`: what a spec means, without starting anything.

What is wrong with a spec is found in `specfile` and `planner`; none of these commands needs torch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from launcher import specfile
from launcher.cli.asking import (
    output_option,
    plan_spec,
    problems_in,
    put,
    say,
    spec_argument,
    storage_option,
)
from launcher.errors import ExitCode, SpecError
from launcher.spec import dotted


@click.command()
@spec_argument
@output_option
def validate(spec: Path, overrides: tuple[str, ...], output: str) -> None:
    """Check SPEC, and say everything that is wrong with it at once."""
    problems, lines = _faults(spec, overrides)
    if output == "json":
        put({"schema": 1, "valid": not problems, "problems": problems})
    elif problems:
        say("\n".join(f"error: {line}" for line in lines))
    else:
        click.echo(f"{spec}: ok")
    if problems:
        sys.exit(ExitCode.SPEC)


@click.command()
@spec_argument
@click.argument("key", required=False)
@output_option
def explain(spec: Path, key: str | None, overrides: tuple[str, ...], output: str) -> None:
    """Say who set each value of SPEC, or those at and below KEY."""
    from launcher.cli import explaining  # `validate` and `schema` need none of it

    found = explaining.settings(plan_spec(spec, overrides=overrides))
    if key is not None:
        found = explaining.select(found, key)
    if output == "json":
        values = [
            {"key": row.name, "value": row.value, "by": row.by, "detail": row.detail}
            for row in found
        ]
        put({"schema": 1, "values": values})
    else:
        _put_table(("KEY", "VALUE", "SET BY"), [(row.name, row.shown, row.who) for row in found])


@click.command()
def schema() -> None:
    """Print the JSON Schema of specs, for editors."""
    put(specfile.json_schema())


@click.command()
@spec_argument
@storage_option
@click.option(
    "--memory/--no-memory",
    "wants_memory",
    default=True,
    help="Whether to estimate the memory of a rank, which takes seconds.  [default: --memory]",
)
@output_option
def plan(
    spec: Path,
    overrides: tuple[str, ...],
    storage: str | None,
    wants_memory: bool,
    output: str,
) -> None:
    """Print every value that a run of SPEC would use, as JSON, what would be sent, and the memory
    that a rank needs.

    Starts no ranks. -o json adds to the document what `submit` would send, as "upload", and the
    memory, as "memory".
    """
    from launcher import packing  # the other commands here need none of it
    from launcher.cli import remembering, sending
    from launcher.memory import estimate

    asked = plan_spec(spec, overrides=overrides, storage=storage)
    decided = asked.plan
    for warning in decided.warnings:
        say(f"warning: {warning}")
    upload = packing.survey(Path(decided.code_dir))
    document = decided.model_dump(mode="json")
    if output == "json":
        document["upload"] = sending.described(upload)
        if wants_memory:
            document["memory"] = remembering.memory_values(estimate(decided, asked.resources))
        put(document)
        return
    put(document)
    say(sending.upload_text(upload))
    if wants_memory:
        say(remembering.memory_text(estimate(decided, asked.resources)))


def _faults(spec: Path, overrides: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """What is wrong with a spec: as values for programs, and as lines for people."""
    try:
        document = specfile.read(spec, overrides=overrides)
    except SpecError as error:  # no YAML at all; such an error begins with its place
        place, _, words = str(error).partition(": ")
        return [{"key": "", "place": place, "message": words}], [str(error)]
    found = problems_in(document)
    return (
        [
            {
                "key": dotted(problem.key),
                "place": document.origin(problem.key),
                "message": problem.message,
            }
            for problem in found
        ],
        [document.describe([problem]) for problem in found],
    )


def _put_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        from launcher.cli.wording import columns

        click.echo(columns([head, *rows]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
