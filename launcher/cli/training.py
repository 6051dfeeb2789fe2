"""`run` and `resume`: training in the foreground."""

import contextlib
import gc
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from launcher import driver, lock, rundir, workspace
from launcher.cli.asking import (
    Asked,
    find_run,
    output_option,
    overrides_option,
    plan_spec,
    put,
    run_argument,
    say,
    spec_argument,
    storage_option,
    wait_timeout_option,
)
from launcher.cli.console import open_console
from launcher.cli.interrupting import interruptible
from launcher.cli.wording import outcome_text
from launcher.engines import EngineChoice, EngineName, default_engine
from launcher.errors import SpecError
from launcher.lock import Hold
from launcher.outcome import Outcome
from launcher.plan import RunPlan
from launcher.resources import Resources
from launcher.rundir import RunDir
from launcher.storage import is_url
from launcher.workspace import to_go_on


def engine_option(command: Any) -> Any:
    return click.option(
        "--engine",
        type=click.Choice(["inline", "local", "ray"]),
        default=None,
        help="inline: the one rank runs in this process, where a debugger reaches it. "
        "local: each rank is a process. ray: the same on a private Ray.  "
        "[default: inline for one rank, else local]",
    )(command)


@click.command()
@spec_argument
@storage_option
@engine_option
@output_option
def run(
    spec: Path, overrides: tuple[str, ...], storage: str | None, engine: str | None, output: str
) -> None:
    """Train SPEC here, in the foreground.

    Ctrl-C finishes the step, saves and ends; a second one ends at once.
    """
    asked = plan_spec(spec, overrides=overrides, storage=storage)
    choice = _engine(engine, asked.plan)
    run_dir = rundir.create(asked.plan.storage, asked.plan.run_id)
    with at_work(run_dir) as (here, hold):
        train(here, asked, overrides, choice, hold=hold, output=output)


@click.command()
@run_argument
@overrides_option
@storage_option
@engine_option
@click.option("--cluster", default=None, metavar="NAME", help="Go on on that Ray cluster.")
@wait_timeout_option
@output_option
def resume(
    run: str,
    overrides: tuple[str, ...],
    storage: str | None,
    engine: str | None,
    cluster: str | None,
    wait_timeout_s: float,
    output: str,
) -> None:
    """Go on with RUN from its last good checkpoint, with changes if there are any."""
    if cluster is not None:
        if engine is not None:
            raise SpecError(
                f"--engine {engine} starts ranks on this machine, and --cluster {cluster} on that "
                "cluster's hosts; leave one of them out"
            )
        from launcher.cli.submitting import resume_there

        resume_there(
            run,
            overrides,
            cluster=cluster,
            storage=storage,
            wait_timeout_s=wait_timeout_s,
            output=output,
        )
    if wait_timeout_s < math.inf:
        raise SpecError("--wait-timeout is for room on a cluster; add --cluster NAME")
    go_on(find_run(run, storage), overrides, output=output, engine=engine)


@contextlib.contextmanager
def at_work(run_dir: RunDir) -> Iterator[tuple[RunDir, Hold]]:
    """Holds the run, and opens it to work in it."""
    with lock.held(run_dir) as hold, workspace.opened(run_dir, wanted=to_go_on) as here:
        yield here, hold


def go_on(
    run_dir: RunDir,
    overrides: tuple[str, ...],
    *,
    output: str,
    engine: str | EngineChoice | None,
    resources: Resources | None = None,
) -> NoReturn:
    """Trains on, unless the run is finished and its end is where it was."""
    if not run_dir.exists(rundir.RECORD) or not run_dir.exists(rundir.PLAN):
        raise SpecError(f"{run_dir.url} was cut off before it was described; run its spec anew")
    with at_work(run_dir) as (here, hold):
        record, before = here.read_json(rundir.RECORD) or {}, here.read_json(rundir.PLAN)
        earlier = RunPlan.model_validate(before)
        overrides = (*record["overrides"], *overrides)
        asked = plan_spec(
            here.local(rundir.SPEC),
            overrides=overrides,
            code_dir=_code(here, record["code_dir"]),
            code_url=record["code_dir"],
            earlier=earlier,
            resources=resources,
        )
        _refuse_finished(here, earlier, asked.plan, output=output)
        choice = engine if isinstance(engine, EngineChoice) else _engine(engine, asked.plan)
        train(here, asked, overrides, choice, hold=hold, output=output)


def _code(here: RunDir, code_dir: str) -> Path:
    """Where the code of a run is on this host."""
    code = here.local(rundir.CODE) if is_url(code_dir) else Path(code_dir)
    if not code.is_dir():
        raise SpecError(
            f"the code of {here.run_id} was in {code_dir}, which is gone; put it back "
            "there, or a link to where it is now"
        )
    return code


def _refuse_finished(run_dir: RunDir, earlier: RunPlan, plan: RunPlan, *, output: str) -> None:
    """Ends the command, as the run did, where there is nothing left to train."""
    ended = run_dir.read_json(rundir.OUTCOME)
    asked = {limit.unit: limit.count for limit in plan.train.limits}
    no_later = all(asked.get(limit.unit, math.inf) <= limit.count for limit in earlier.train.limits)
    if ended and ended["status"] == "succeeded" and no_later:
        say(
            f"{run_dir.run_id} is finished, at step {ended['step']}; to go on, give it a later "
            f"end: {' '.join(f'--set train.max_{limit.unit}=N' for limit in earlier.train.limits)}"
        )
        _report(Outcome.model_validate(ended), output=output, trained=False)


def train(
    run_dir: RunDir,
    asked: Asked,
    overrides: tuple[str, ...],
    engine: EngineChoice,
    *,
    hold: Hold,
    output: str,
) -> NoReturn:
    """Trains the run to its end, and exits as it did."""
    gc.enable()
    say(f"run {run_dir.run_id} in {run_dir.path()}")
    for warning in asked.plan.warnings:
        say(f"warning: {warning}")
    with open_console(live=engine.name != "inline") as console, interruptible() as stop:
        outcome = driver.conduct(
            run_dir,
            asked.plan,
            driver.Description(
                spec_text=asked.document.text,
                overrides=overrides,
                resources=asked.resources,
                now=datetime.now(UTC),
            ),
            engine=engine,
            hold=hold,
            stop=stop,
            audience=console,
        )
    _report(outcome, output=output)


def _report(outcome: Outcome, *, output: str, trained: bool = True) -> NoReturn:
    say(outcome_text(outcome, seen_rank=0 if trained else None))
    if output == "json":
        put(outcome.model_dump(mode="json"))
    sys.exit(outcome.exit_code)


def _engine(asked: str | None, plan: RunPlan) -> EngineChoice:
    if asked == "inline" and plan.ranks.world_size > 1:
        raise SpecError(
            f"--engine inline runs one rank, and resources.world_size is {plan.ranks.world_size}; "
            "add --set resources.world_size=1"
        )
    return EngineChoice(cast(EngineName, asked)) if asked else default_engine(plan)
