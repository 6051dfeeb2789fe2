"""A host of a cluster needs torch and Ray: the launcher comes with a job, and needs no more."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import launcher
from launcher import rundir
from launcher.rundir import RunDir
from tests.bare import make_host_python
from tests.job import LAST_STEP, write_job

pytestmark = pytest.mark.integration

PACKAGE = Path(launcher.__file__).parent
ON_A_PERSONS_MACHINE = {
    *("launcher.packing", "launcher.cluster", "launcher.cli.submitting"),
    *("launcher.cli.sending", "launcher.cli.live", "launcher.cli.templates"),
    *("launcher.cli.remembering", "launcher.memory"),
    *("launcher.tracking.wandb", "launcher.strategies.deepspeed"),
}
"""What only sends, plans, draws on a terminal, or needs wandb or deepspeed; the rest runs on
hosts."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_host_python(tmp_path_factory.mktemp("host") / "venv")


def on_host(python: Path, *arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs it as Ray runs a job: with the launcher on the path, and installed nowhere."""
    return subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )


def cluster_side() -> list[str]:
    names = [
        ".".join(("launcher", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.stem not in ("__init__", "__main__")
    ]
    return [
        name
        for name in names
        if not any(name == left or name.startswith(f"{left}.") for left in ON_A_PERSONS_MACHINE)
    ]


def test_a_host_lacks_what_a_persons_machine_has(python: Path, tmp_path: Path) -> None:
    wanted = ["numpy", "psutil", "rich", "pathspec", "pynvml", "safetensors", "wandb", "pytest"]
    code = f"from importlib.util import find_spec; print([n for n in {wanted} if find_spec(n)])"
    assert on_host(python, "-c", code, folder=tmp_path).stdout == "[]\n"


def test_every_module_of_a_host_is_imported_there(python: Path, tmp_path: Path) -> None:
    names = cluster_side()
    assert {"launcher.worker", "launcher.cli.shipped", "launcher.engines.ray.host"} <= set(names)
    done = on_host(python, "-c", "\n".join(f"import {name}" for name in names), folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["launcher.engines.ray.host", "launcher.engines.zygote"])
def test_the_first_modules_of_a_hosts_processes_need_no_other_before(
    python: Path, tmp_path: Path, name: str
) -> None:
    done = on_host(python, "-c", f"import {name}", folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_run_trains_on_ray_there_and_goes_on(python: Path, tmp_path: Path) -> None:
    spec = write_job(tmp_path, train__max_epochs=1)
    command = ("-m", "launcher")
    first = on_host(
        python, *command, "run", str(spec), "--engine=ray", "-o", "json", folder=tmp_path
    )
    assert first.returncode == 0, first.stderr
    outcome: dict[str, Any] = json.loads(first.stdout)
    run_dir = RunDir(outcome["run_dir"])
    versions = (run_dir.read_json(rundir.RECORD) or {})["versions"]
    assert versions.keys() == {"torch-launcher", "torch", "ray"}
    on = on_host(python, *command, "resume", "@last", "--set=train.max_epochs=3", folder=tmp_path)
    assert on.returncode == 0, on.stderr
    assert (run_dir.read_json(rundir.OUTCOME) or {})["step"] == LAST_STEP
    of_the_run = [[name, "@last"] for name in ("show", "logs", "stop", "wait")]
    for asked in (*of_the_run, ["ls"], ["doctor"], ["validate", str(spec)]):
        done = on_host(python, *command, *asked, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    log = Path(run_dir.path(rundir.rank_log(1, 0))).read_text()
    assert "numpy" not in log.lower(), log
