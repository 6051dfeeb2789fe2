"""Every spec in `job_specs/` is valid and says in its header what came out."""

from pathlib import Path

import pytest

from launcher import specfile
from launcher.planner import make_plan, problems
from launcher.resources import this_host

FOLDER = Path(__file__).parent.parent / "job_specs"
SPECS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec_loads_and_plans(path: Path) -> None:
    document = specfile.read(path)
    assert document.spec is not None
    document.refuse(problems(document.spec, this_host()))
    plan = make_plan(
        document.spec,
        this_host(),
        run_id="r",
        storage="/runs",
        code_dir=str(FOLDER),
    )
    assert plan.name == document.spec.name


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec_says_what_it_needs_how_long_it_takes_and_what_came_out(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Needs:", "Run:", "Takes:", "Result:"):
        assert any(line.startswith(f"# {word}") and len(line) > 12 for line in header), word
