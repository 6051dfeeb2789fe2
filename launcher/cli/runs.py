"""`ls`, `show`, `logs`, `stop` and `wait`: what run directories say, without torch."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict

import click

from launcher import history, lock, rundir
from launcher.cli.asking import (
    DEFAULT_STORAGE,
    absolute_storage,
    find_run,
    output_option,
    put,
    run_argument,
    say,
    storage_option,
)
from launcher.cli.console import PlainConsole
from launcher.cli.remote import also_on_cluster
from launcher.cli.wording import columns, history_text, measured_text, outcome_text
from launcher.errors import ExitCode, SpecError, StorageError
from launcher.growing import Lines, as_json, lines_of, poll_s
from launcher.metrics import Follower
from launcher.outcome import Outcome
from launcher.rundir import RunDir
from launcher.timeline import spent


@click.command()
@storage_option
@output_option
@also_on_cluster
def ls(storage: str | None, output: str) -> None:
    """List runs, the newest last."""
    outcomes = list(_readable(rundir.all_runs(absolute_storage(storage or DEFAULT_STORAGE))))
    if output == "json":
        put({"schema": 1, "runs": [outcome.model_dump(mode="json") for outcome in outcomes]})
        return
    rows = [(o.run_id, o.status, str(o.step), measured_text(o.metrics)) for o in outcomes]
    click.echo(columns([("RUN", "STATUS", "STEP", "METRICS"), *rows]))


def _readable(runs: Iterable[RunDir]) -> Iterator[Outcome]:
    """The outcomes of those that this person may read."""
    for run in runs:
        try:
            yield history.outcome_of(run)
        except StorageError as error:
            say(f"warning: {error}")


@click.command()
@run_argument
@storage_option
@output_option
@also_on_cluster
def show(run: str, storage: str | None, output: str) -> None:
    """Show the outcome of RUN, its attempts, and what was decided for it."""
    run_dir = find_run(run, storage)
    outcome = history.outcome_of(run_dir)
    events = list(run_dir.read_lines(rundir.EVENTS))
    document = {
        "schema": 1,
        "outcome": outcome.model_dump(mode="json"),
        "record": run_dir.read_json(rundir.RECORD),
        "plan": run_dir.read_json(rundir.PLAN),
        "events": events,
        "spent": [asdict(attempt) for attempt in spent(events, run_dir.read_lines(rundir.METRICS))],
    }
    if output == "json":
        put(document)
    else:
        click.echo(outcome_text(outcome))
        click.echo(history_text(document))


@click.command()
@run_argument
@click.option("--rank", default=0, show_default=True, help="Whose output.")
@click.option("--attempt", default=None, type=int, help="Which attempt's.  [default: the last]")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@storage_option
@also_on_cluster
def logs(run: str, rank: int, attempt: int | None, follow: bool, storage: str | None) -> None:
    """Print what a rank of RUN printed."""
    run_dir = find_run(run, storage)
    if follow:
        with closing(_News(run_dir)) as news:
            _follow(run_dir, news, rank=rank, attempt=attempt)
        return
    name = rundir.rank_log(attempt or max(history.attempts(run_dir), default=1), rank)
    if not run_dir.exists(name):
        ranks = run_dir.names(name.rsplit("/", 1)[0])
        raise SpecError(f"there is no {name} in {run_dir.url}; there is: {', '.join(ranks)}")
    with closing(lines_of(run_dir, name)) as lines:
        _print_new(lines, to_the_end=True)
    if not run_dir.read(name):
        say(f"rank {rank} has printed nothing; `launcher show {run_dir.reference}` has the rest")


def _follow(run_dir: RunDir, news: "_News", *, rank: int, attempt: int | None) -> None:
    """Prints what a rank prints until the run ends; without `attempt`, from restart to restart.

    The news of the run go beside it: ranks that train in peace print nothing.
    """
    number = attempt or 0
    while True:
        number = number or max(history.attempts(run_dir), default=1)
        with closing(lines_of(run_dir, rundir.rank_log(number, rank))) as lines:
            while (running := lock.is_held(run_dir)) and not _is_over(run_dir, number, attempt):
                _print_new(lines)
                news.say_new()
                time.sleep(poll_s(run_dir))
            _print_new(lines, to_the_end=True)
        news.say_new()
        if not running and not _is_over(run_dir, number, attempt):
            return
        number += 1


class _News:
    """Events and rows of a run from now on, as whoever trains it in the foreground sees them."""

    def __init__(self, run_dir: RunDir) -> None:
        self._console = PlainConsole()
        self._events = lines_of(run_dir, rundir.EVENTS)
        self._rows = Follower(run_dir)
        for event in as_json(self._events):
            if event["event"] == "training":
                self._console.event(event)
        for _ in self._rows.new_rows():
            pass

    def say_new(self) -> None:
        for event in as_json(self._events):
            self._console.event(event)
        for row in self._rows.new_rows():
            self._console.log(row)

    def close(self) -> None:
        self._events.close()
        self._rows.close()


def _is_over(run_dir: RunDir, number: int, attempt: int | None) -> bool:
    """Whether another attempt has followed this one, which was not asked for by its number."""
    return attempt is None and number < max(history.attempts(run_dir), default=0)


def _print_new(lines: Lines, *, to_the_end: bool = False) -> None:
    for line in lines.new():
        click.echo(line)
    if to_the_end and lines.rest:
        click.echo(lines.rest)


@click.command()
@run_argument
@click.option("--timeout", "timeout_s", default=None, type=float, help="Seconds to wait at most.")
@storage_option
@output_option
@also_on_cluster
def stop(run: str, timeout_s: float | None, storage: str | None, output: str) -> None:
    """End RUN after its step, with a checkpoint."""
    run_dir = find_run(run, storage)
    if not lock.is_held(run_dir):
        say(f"{run_dir.run_id} is not training: {history.status_of(run_dir)}")
        if output == "json":
            put(history.outcome_of(run_dir).model_dump(mode="json"))
        return
    run_dir.write(rundir.STOP, b"")
    _report_end(run_dir, timeout_s=timeout_s, output=output)


@click.command()
@run_argument
@click.option("--timeout", "timeout_s", default=None, type=float, help="Seconds to wait at most.")
@storage_option
@output_option
@also_on_cluster
def wait(run: str, timeout_s: float | None, storage: str | None, output: str) -> None:
    """Wait until RUN ends; exits as the run did, or with 21 while it goes on."""
    _report_end(find_run(run, storage), timeout_s=timeout_s, output=output, exit_as_run=True)


def _report_end(
    run_dir: RunDir, *, timeout_s: float | None, output: str, exit_as_run: bool = False
) -> None:
    ended = _poll(lambda: not lock.is_held(run_dir), every_s=poll_s(run_dir), timeout_s=timeout_s)
    outcome = history.outcome_of(run_dir)
    if output == "json":
        put(outcome.model_dump(mode="json"))
    else:
        say(outcome_text(outcome))
    if exit_as_run or not ended:
        sys.exit(outcome.exit_code if ended else ExitCode.STILL_RUNNING)


def _poll(condition: Callable[[], bool], *, every_s: float, timeout_s: float | None) -> bool:
    deadline = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_s)
    return True
