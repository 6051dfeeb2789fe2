"""What several commands ask for in the same way: the spec, the run, the form of the output.

Each function here is an option, or turns arguments into values.
"""

import contextlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from launcher import planner, specfile
from launcher.errors import SpecError
from launcher.plan import RunPlan
from launcher.resources import Resources, this_host
from launcher.spec import JobSpec, Problem
from launcher.specfile import Document

if TYPE_CHECKING:  # fsspec costs as much as all of `validate`; what needs it imports it below
    from launcher.rundir import RunDir

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_STORAGE = "runs"  # as in rundir, which costs too much to import here


def spec_argument(command: F) -> F:
    """The job spec and its overrides."""
    command = click.argument("spec", type=click.Path(path_type=Path))(command)
    return overrides_option(command)


def overrides_option(command: F) -> F:
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a field with a YAML value; null takes it away. Repeatable.",
    )(command)


def storage_option(command: F) -> F:
    return click.option(
        "--storage",
        default=None,
        metavar="PLACE",
        help=f"Folder or URL where runs are kept.  [default: ./{DEFAULT_STORAGE}]",
    )(command)


def output_option(command: F) -> F:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        help="json: one JSON document on stdout.",
    )(command)


def wait_timeout_option(command: F) -> F:
    return click.option(
        "--wait-timeout",
        "wait_timeout_s",
        type=float,
        default=math.inf,
        help="Seconds to wait for room on the cluster; then exit with 5.  [default: for ever]",
    )(command)


def run_argument(command: F) -> F:
    return click.argument("run", metavar="RUN")(command)


def find_run(reference: str, storage: str | None) -> "RunDir":
    """The run that a person means; NoSuchRunError when there is none."""
    from launcher import rundir

    return rundir.find(reference, place=absolute_storage(storage or DEFAULT_STORAGE))


def absolute_storage(storage: str) -> str:
    """The folder's full path; a URL as it is, once it is known that it can be used here."""
    storage = storage.removeprefix("file://")
    if re.match(r"\w+:/(?!/)", storage):
        raise SpecError(f"storage is {storage}; a URL has two slashes, as in s3://BUCKET/runs")
    if "://" not in storage:
        return str(Path(storage).absolute())
    from launcher.storage import check_url

    check_url(storage)
    return storage


@dataclass(frozen=True)
class Asked:
    """A spec, read and planned for this host."""

    document: Document
    plan: RunPlan
    resources: Resources


def problems_in(document: Document) -> tuple[Problem, ...]:
    """Everything that `Document.refuse` would say of a spec on this host, one by one."""
    spec = document.spec
    return document.wrong(planner.problems(spec, this_host()) if spec else ())


def checked_spec(path: Path, overrides: Sequence[str]) -> JobSpec:
    """What can be known of a spec without the cluster; the rest is checked there."""
    document = specfile.read(path, overrides=overrides)
    document.refuse(planner.problems(document.spec, this_host()) if document.spec else ())
    assert document.spec is not None  # or it was refused
    return document.spec


def plan_spec(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    storage: str | None = None,
    code_dir: Path | None = None,
    code_url: str = "",
    earlier: RunPlan | None = None,
    resources: Resources | None = None,
    run_id: str | None = None,
) -> Asked:
    """Reads, checks and plans a spec; SpecError with everything that is wrong with it.

    `code_dir` is where its code is on this host, `code_url` where every host finds it.

    `earlier` is the plan of the run that goes on, under its own id; `resources` are those of the
    cluster where it does not run on this host.
    """
    document = specfile.read(path, overrides=overrides, code_dir=code_dir)
    resources = resources or this_host()
    spec = document.spec
    document.refuse(planner.problems(spec, resources) if spec else ())
    assert spec is not None  # or the document has problems, and was refused
    plan = planner.make_plan(
        spec,
        resources,
        run_id=run_id or (earlier.run_id if earlier else fresh_id(spec.name)),
        storage=earlier.storage
        if earlier
        else absolute_storage(storage or spec.storage or DEFAULT_STORAGE),
        code_dir=code_url or str(code_dir or path.absolute().parent),
        earlier=earlier,
    )
    document.refuse(planner.changes_refused(earlier, plan) if earlier else ())
    return Asked(document=document, plan=plan, resources=resources)


def say(text: str) -> None:
    """News, for a person; nothing ends because nobody listens any more."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(text, err=True)


def put(value: Any) -> None:
    """One JSON document on stdout; the exit code stays true where nobody reads it."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(json.dumps(value, indent=2))


def fresh_id(name: str) -> str:
    """An id that no run has had."""
    import secrets
    from datetime import UTC, datetime

    from launcher import rundir

    return rundir.new_run_id(name, now=datetime.now(UTC), suffix=secrets.token_hex(2))
