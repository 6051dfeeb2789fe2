"""A host finds out before training that it does not share the storage."""

from pathlib import Path

from launcher import rundir
from launcher.engines.ray.host import storage_problems
from launcher.rundir import RunDir


def test_a_host_that_sees_what_was_written_and_may_write_is_fit(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    run_dir.write(rundir.PROBE, b"here")
    assert storage_problems(run_dir, "here", host="10.0.0.2") == []
    assert run_dir.names("") == [rundir.PROBE]


def test_a_folder_of_the_same_name_that_is_another_one_is_told(tmp_path: Path) -> None:
    (problem,) = storage_problems(RunDir(str(tmp_path / "none")), "here", host="10.0.0.2")
    assert problem.startswith("host 10.0.0.2 does not see in ")
