"""`launcher.cli.examining`: how `doctor` reports, and what it sends to a cluster."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from launcher.cli import examining
from launcher.cluster.jobs import Job
from launcher.doctor import Check
from launcher.errors import ClusterError, SpecError
from launcher.packing import Packed
from tests.job import write_job

CHECKS = [
    Check("python", "ok", "3.11.7"),
    Check("wandb", "warn", "without an API key", "`wandb login`"),
]


@pytest.mark.parametrize(
    ("last", "code"),
    [(Check("gloo", "ok", "adds"), 0), (Check("gloo", "FAIL", "hangs", "mend"), 3)],
    ids=["warnings", "a failure"],
)
def test_doctor_exits_with_3_when_something_fails(
    monkeypatch: pytest.MonkeyPatch, last: Check, code: int
) -> None:
    def examine(_storage: str) -> Iterator[Check]:
        yield from [*CHECKS, last]

    monkeypatch.setattr("launcher.doctor.examine", examine)
    done = CliRunner().invoke(examining.doctor)
    assert done.exit_code == code
    first, second, _ = done.stdout.splitlines()
    assert first == "ok   python: 3.11.7"
    assert second == "warn wandb: without an API key -> `wandb login`"
    done = CliRunner().invoke(examining.doctor, ["-o", "json"])
    document = json.loads(done.stdout)
    assert done.exit_code == code
    assert (document["schema"], document["ok"]) == (1, code == 0)
    assert [check["status"] for check in document["checks"]] == ["ok", "warn", last.status]


class FakeJobs:
    """A cluster that runs any command at once."""

    def __init__(self, *, state: Any = "SUCCEEDED", exit_code: int | None = 0) -> None:
        self.commands: list[list[str]] = []
        self.sent: list[str] = []
        self._job = Job("it", state, exit_code, {}, "no such package")

    def open_to_all(self) -> bool:
        return True

    def submit(
        self,
        job_id: str,
        command: str,
        *,
        folder: Path | None,
        files: Sequence[Packed],
        metadata: Mapping[str, str],
    ) -> None:
        assert job_id.startswith("launcher-doctor-")
        assert metadata == {"launcher_command": "doctor"}
        assert bool(folder) == bool(files)
        self.sent = [file.name for file in files]
        self.commands.append(shlex.split(command.partition("exec ")[2]))

    def follow(self, _job_id: str) -> Iterator[str]:
        yield "\nlauncher-output-begins\nok   hosts: one answers\n"

    def get(self, _job_id: str) -> Job:
        return self._job

    wait = get


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeJobs:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    jobs = FakeJobs()
    monkeypatch.setattr(examining, "open_jobs", lambda _cluster: jobs)
    return jobs


def ask(*arguments: str) -> Result:
    command = ["--cluster", "http://head:8265", *arguments]
    return CliRunner().invoke(examining.doctor, command)


def test_a_cluster_is_asked_by_a_job_that_knows_what_the_laptop_sees(there: FakeJobs) -> None:
    done = ask()
    assert done.exit_code == 0, done.output
    assert done.stdout == "ok   hosts: one answers\n"
    (command,) = there.commands
    assert command[:5] == ["python", "-m", "launcher", "job", "doctor"]
    given = dict(word.split("=", 1) for word in command if word.startswith("--version="))
    assert given.keys() == {"--version"}
    names = [word.split("=")[1] for word in command if word.startswith("--version=")]
    assert names == ["python", "ray", "torch", "launcher"]
    assert "--open-to-all" in command
    assert not any(word.startswith("--storage") for word in command)
    assert there.sent == []


def test_a_spec_goes_along_with_its_folder_its_storage_and_its_changes(
    there: FakeJobs, tmp_path: Path
) -> None:
    spec = write_job(tmp_path / "job", storage="/shared/runs")
    done = ask(str(spec), "--set", "train.max_epochs=1", "-o", "json")
    assert done.exit_code == 0, done.output
    (command,) = there.commands
    assert command[5:7] == ["job.yaml", "--set=train.max_epochs=1"]
    assert "--storage=/shared/runs" in command
    assert command[-1] == "--output=json"
    assert sorted(there.sent) == ["job.yaml", "tiny.py"]


@pytest.mark.parametrize("code", [2, 3])
def test_the_exit_code_of_the_examination_is_the_commands(there: FakeJobs, code: int) -> None:
    there._job = Job("it", "FAILED", code, {}, "")
    assert ask().exit_code == code


def test_a_job_that_the_cluster_could_not_start_is_the_clusters_fault(there: FakeJobs) -> None:
    there._job = Job("it", "FAILED", None, {}, "no such package")
    error = ask().exception
    assert isinstance(error, ClusterError)
    assert str(error).endswith("could not run the examination: no such package")


def test_a_bad_spec_is_refused_before_anything_is_sent(there: FakeJobs, tmp_path: Path) -> None:
    spec = write_job(tmp_path / "job", train__global_batch_size=-1)
    assert isinstance(ask(str(spec)).exception, SpecError)
    assert isinstance(ask("--storage", "relative").exception, SpecError)
    assert there.commands == []


def test_a_spec_without_a_cluster_is_told_where_it_can_be_checked() -> None:
    with pytest.raises(SpecError, match="add --cluster NAME"):
        examining.doctor.main(["job.yaml"], standalone_mode=False)
