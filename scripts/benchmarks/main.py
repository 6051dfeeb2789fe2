"""Which rows there are, in which order they run, and what becomes of their results."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    cli,
    cluster,
    first_step,
    hang,
    kill,
    node_loss,
    save,
    start_methods,
    step,
    zero,
)
from benchmarks.processes import FailedRunError
from benchmarks.report import Row, document, machine, table


@dataclass(frozen=True)
class Measurement:
    """A module's rows, and how often they are repeated unless asked otherwise."""

    measure: Callable[[int, Path], list[Row]]
    repeat: int


MEASUREMENTS = {
    "cli": Measurement(cli.measure, repeat=15),
    "first-step": Measurement(first_step.measure, repeat=7),
    "step": Measurement(step.measure, repeat=8),
    "save": Measurement(save.measure, repeat=5),
    "zero-step": Measurement(zero.measure, repeat=4),
    "zero-save": Measurement(zero.measure_saves, repeat=4),
    "kill": Measurement(kill.measure, repeat=7),
    "cluster": Measurement(cluster.measure, repeat=3),
    "ray-step": Measurement(step.measure_on_ray, repeat=8),
    "node-loss": Measurement(node_loss.measure, repeat=1),
    "hang": Measurement(hang.measure, repeat=2),
    "start-methods": Measurement(start_methods.measure, repeat=7),
}


def main() -> None:
    """Measures the rows that were asked for; exits with 1 when one could not be measured."""
    asked = _arguments()
    rows: list[Row] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="launcher-bench-", dir=asked.scratch) as scratch:
        for name in asked.rows or MEASUREMENTS:
            measurement = MEASUREMENTS[name]
            print(f"measuring {name}", file=sys.stderr)
            folder = Path(scratch, name)
            folder.mkdir()
            try:
                rows += measurement.measure(asked.repeat or measurement.repeat, folder)
            except FailedRunError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
    result = document(rows, machine=machine())
    print(table(rows, result["machine"], date=result["date"]))
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(int(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(MEASUREMENTS))
    parser.add_argument("--repeat", type=int, help="repetitions of each row")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for every value")
    parser.add_argument(
        "--scratch", type=Path, help="folder (and so disk) for runs; the default is the system's"
    )
    asked = parser.parse_args()
    if unknown := set(asked.rows) - set(MEASUREMENTS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    return asked
