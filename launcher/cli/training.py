"""`run` and `resume`: training in the foreground."""

import gc
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from launcher import driver, lock, rundir
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
from launcher.outcome import Outcome
from launcher.plan import RunPlan
from launcher.resources import Resources
from launcher.rundir import RunDir


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
    with lock.held(run_dir) as lock_fd:
        train(run_dir, asked, overrides, choice, lock_fd=lock_fd, output=output)


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


def go_on(
    run_dir: RunDir,
    overrides: tuple[str, ...],
    *,
    output: str,
    engine: str | EngineChoice | None,
    resources: Resources | None = None,
) -> NoReturn:
    """Trains on, unless the run is finished and its end is where it was."""
    record, before = run_dir.read_json(rundir.RECORD), run_dir.read_json(rundir.PLAN)
    if record is None or before is None:
        raise SpecError(f"{run_dir.url} was cut off before it was described; run its spec anew")
    earlier = RunPlan.model_validate(before)
    if not Path(record["code_dir"]).is_dir():
        raise SpecError(
            f"the code of {run_dir.run_id} was in {record['code_dir']}, which is gone; put it back "
            "there, or a link to where it is now"
        )
    overrides = (*record["overrides"], *overrides)
    asked = plan_spec(
        Path(run_dir.path(rundir.SPEC)),
        overrides=overrides,
        code_dir=record["code_dir"],
        earlier=earlier,
        resources=resources,
    )
    ended = run_dir.read_json(rundir.OUTCOME)
    if ended and ended["status"] == "succeeded" and earlier.train.limits == asked.plan.train.limits:
        say(
            f"{run_dir.run_id} is finished, at step {ended['step']}; to go on, give it a later "
            f"end: {' '.join(f'--set train.max_{limit.unit}=N' for limit in earlier.train.limits)}"
        )
        _report(Outcome.model_validate(ended), output=output, trained=False)
    choice = engine if isinstance(engine, EngineChoice) else _engine(engine, asked.plan)
    with lock.held(run_dir) as lock_fd:
        train(run_dir, asked, overrides, choice, lock_fd=lock_fd, output=output)


def train(
    run_dir: RunDir,
    asked: Asked,
    overrides: tuple[str, ...],
    engine: EngineChoice,
    *,
    lock_fd: int,
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
            lock_fd=lock_fd,
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
