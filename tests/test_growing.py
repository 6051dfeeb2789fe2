"""The lines of a file that grows are read once each, wherever it is."""

from pathlib import Path

import pytest

from launcher import rundir
from launcher.growing import lines_of
from launcher.rundir import RunDir

ROW = b'{"step": %d, "loss": 0.123456789, "time": 1764000000.123456, "samples_per_s": 1%d.5}\n'


@pytest.fixture(params=["", "file://"], ids=["folder", "url"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> RunDir:
    return RunDir(f"{request.param}{tmp_path}")


def test_each_whole_line_comes_once(run_dir: RunDir) -> None:
    lines = lines_of(run_dir, rundir.METRICS)
    assert list(lines.new()) == []
    path = Path(run_dir.url.removeprefix("file://"), rundir.METRICS)
    path.write_bytes(b"one\ntw")
    assert (list(lines.new()), lines.rest) == ([b"one"], b"tw")
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert list(lines.new()) == [b"two", b"three"]
    assert list(lines.new()) == []
    lines.close()


@pytest.mark.parametrize("rows", [2, 9])
def test_a_file_that_was_put_in_its_place_is_read_from_its_start(
    run_dir: RunDir, rows: int
) -> None:
    run_dir.write(rundir.METRICS, b"".join(ROW % (step, 1) for step in range(5)))
    lines = lines_of(run_dir, rundir.METRICS)
    assert len(list(lines.new())) == 5
    run_dir.write(rundir.METRICS, b"".join(ROW % (step, 2) for step in range(rows)))
    assert len(list(lines.new())) == rows
    lines.close()
