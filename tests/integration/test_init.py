"""What `init` writes trains as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.integration
def test_the_first_run_of_a_new_folder_learns(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "launcher"]
    subprocess.run([*launcher, "init"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [*launcher, "run", "job.yaml", "-o", "json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    )
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "succeeded"
    assert outcome["metrics"]["eval_accuracy"] > 0.95
