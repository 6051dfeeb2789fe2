"""`launcher.cli.specs`: what `validate`, `explain`, `schema` and `plan` print and exit with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import ExitCode
from launcher.plan import RunPlan

SPEC = """\
name: small
model: {target: mine:Net, args: {sizes: [8, 4]}}
data: {train: mine:points}
train:
  loss: torch.nn:CrossEntropyLoss
  optimizer: {target: torch.optim:SGD, args: {lr: 0.1}}
  global_batch_size: 8
  max_steps: 20
resources: {world_size: [1, 1], gpus_per_rank: 0}
"""
TRAINABLE = """\
import torch
def Net(sizes): return torch.nn.Linear(*sizes)
def points(): return [(torch.zeros(8), 1)]
"""
FRAMEWORKS = {"torch", "ray", "deepspeed", "wandb", "numpy"}
HEAVY = FRAMEWORKS | {"fsspec", "rich"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good job.yaml."""
    (tmp_path / "mine.py").write_text("class Net: ...\ndef points(): ...\n")
    (tmp_path / "job.yaml").write_text(SPEC)
    return tmp_path


def launcher(
    *arguments: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, run in this process."""
    from launcher.cli import main

    monkeypatch.setattr(sys, "argv", ["launcher", *arguments])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capfd.readouterr()


@pytest.fixture
def command(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """`launcher` in that folder: exit code, stdout and stderr."""
    monkeypatch.chdir(folder)
    return lambda *arguments: launcher(*arguments, capfd=capfd, monkeypatch=monkeypatch)


def test_a_good_spec_is_ok(command: Any) -> None:
    assert command("validate", "job.yaml") == (0, "job.yaml: ok\n", "")
    code, out, _ = command("validate", "job.yaml", "-o", "json")
    assert (code, json.loads(out)) == (0, {"schema": 1, "valid": True, "problems": []})


def test_every_problem_is_an_error_line_of_its_own_with_its_place(
    command: Any, folder: Path
) -> None:
    wrong = SPEC.replace("global_batch_size: 8", "global_batch_size: 9")
    wrong = wrong.replace("max_steps: 20", "max_steps: many")
    (folder / "job.yaml").write_text(wrong)
    code, out, err = command("validate", "job.yaml", "--set", "resources.world_size=2")
    assert (code, out) == (ExitCode.SPEC, "")
    first, second = err.splitlines()
    assert first.startswith("error: job.yaml:7:3: train.global_batch_size: is 9, not a multiple")
    assert second.startswith("error: job.yaml:8:3: train.max_steps: is 'many'")


def test_problems_are_values_for_programs(command: Any) -> None:
    code, out, err = command("validate", "job.yaml", "-o", "json", "--set", "train.max_stepz=1")
    assert (code, err) == (ExitCode.SPEC, "")
    found = json.loads(out)
    assert not found["valid"]
    (problem,) = found["problems"]
    assert problem["key"] == "train.max_stepz"
    assert problem["place"] == "--set train.max_stepz=1"
    assert "max_steps" in problem["message"]


@pytest.mark.parametrize(
    ("text", "place"), [("a: [1\n", "job.yaml:2:1"), (None, "job.yaml")], ids=["broken", "absent"]
)
def test_a_file_that_is_no_yaml_is_a_problem_too(
    command: Any, folder: Path, text: str | None, place: str
) -> None:
    if text is None:
        (folder / "job.yaml").unlink()
    else:
        (folder / "job.yaml").write_text(text)
    code, out, _ = command("validate", "job.yaml", "-o", "json")
    assert code == ExitCode.SPEC
    (problem,) = json.loads(out)["problems"]
    assert problem["place"] == place
    assert problem["message"]
    code, out, err = command("validate", "job.yaml")
    assert (code, out) == (ExitCode.SPEC, "")
    assert err.startswith(f"error: {place}: ")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            '{"gradient_clipping": 0.5}',
            "job.yaml:9:3: train.clip_grad_norm: is 1.0, but strategy.config.gradient_clipping "
            "(ds.json:1:2) is 0.5; make them agree, or say it in one place only",
        ),
        (
            '{"zero_optimization": {"stage": 4}}',
            "ds.json:1:24: strategy.config.zero_optimization.stage: is 4, must be from 0 to 3",
        ),
        (
            '{\n  "gradient_cliping": 1.0}',
            "ds.json:2:3: strategy.config.gradient_cliping: unknown key of DeepSpeed; "
            "did you mean gradient_clipping?",
        ),
        ('{"zero', "job.yaml:10:29: strategy.config: ds.json:1:2: is not JSON: unterminated "),
    ],
    ids=["contradiction", "stage", "typo", "broken"],
)
def test_a_deepspeed_config_is_checked_with_the_spec(
    command: Any, folder: Path, config: str, said: str
) -> None:
    strategy = "  clip_grad_norm: 1.0\nstrategy: {name: deepspeed, config: ds.json}\nresources"
    (folder / "job.yaml").write_text(SPEC.replace("resources", strategy))
    (folder / "ds.json").write_text(config)
    code, out, err = command("validate", "job.yaml")
    assert (code, out) == (ExitCode.SPEC, "")
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1
    code, out, _ = command("validate", "job.yaml", "-o", "json")
    assert code == ExitCode.SPEC
    (problem,) = json.loads(out)["problems"]
    assert f"error: {problem['place']}: {problem['key']}: {problem['message']}\n" == err


def explained(command: Any, *arguments: str) -> dict[str, list[str]]:
    """Value and who set it, by key."""
    code, out, _ = command("explain", "job.yaml", *arguments)
    assert code == 0
    head, *rows = (line.split(maxsplit=2) for line in out.splitlines())
    assert head == ["KEY", "VALUE", "SET BY"]
    return {key: rest for key, *rest in rows}


def test_each_value_says_who_set_it(command: Any) -> None:
    found = explained(command, "--set", "model.args.sizes.1=5")
    assert found["name"] == ["small", "job.yaml:1:1"]
    assert found["model.args.sizes.0"] == ["8", "job.yaml:2:42"]
    assert found["model.args.sizes.1"] == ["5", "--set model.args.sizes.1=5"]
    assert found["data.train.target"] == ["mine:points", "job.yaml:3:8"]
    assert found["train.micro_batch_size"] == ["8", "decided: 8 samples / 1 ranks"]
    assert found["train.compile"] == ["false", "default"]
    assert found["train.schedule"] == ["-", "default"]
    assert found["strategy.name"] == ["ddp", "default"]


def test_a_range_shows_what_was_decided_and_where_it_was_asked_for(command: Any) -> None:
    value, who = explained(command)["resources.world_size"]
    assert value == "1"
    assert who.startswith("decided: of 1 to 1")
    assert who.endswith("(job.yaml:9:13)")


def test_a_value_that_a_deepspeed_config_brings_says_so(command: Any, folder: Path) -> None:
    (folder / "ds.json").write_text('{"zero_optimization": {"stage": 1}}')
    found = explained(command, "--set", "strategy={name: deepspeed, config: ds.json}")
    reason = "decided: as strategy.config.zero_optimization.stage says"
    assert found["strategy.zero_stage"] == ["1", reason]
    assert found["strategy.config.zero_optimization.stage"] == ["1", "ds.json:1:24"]


def test_a_value_taken_away_is_decided_anew(command: Any) -> None:
    found = explained(command, "--set", "resources=null", "--set", "train.loss=null")
    assert found["resources.cpus_per_rank"][1].startswith("decided: ")
    assert found["train.loss"] == ["-", "default"]


def test_a_key_shows_its_section_only(command: Any) -> None:
    assert set(explained(command, "train.optimizer")) == {
        "train.optimizer.target",
        "train.optimizer.args.lr",
    }
    assert set(explained(command, "train.schedule.warmup_steps")) == {"train.schedule"}


@pytest.mark.parametrize("key", ["train.optimiser", "model.args.size"])
def test_an_unknown_key_is_answered_with_a_close_one(command: Any, key: str) -> None:
    code, out, err = command("explain", "job.yaml", key)
    assert (code, out) == (ExitCode.SPEC, "")
    assert "did you mean" in err


def test_explain_names_every_decision_of_the_plan(command: Any) -> None:
    _, out, _ = command("explain", "job.yaml", "-o", "json")
    document = json.loads(out)
    assert document["schema"] == 1
    decided = {row["key"]: row["value"] for row in document["values"] if row["by"] == "decided"}
    plan = RunPlan.model_validate_json(command("plan", "job.yaml", "--no-memory")[1])
    assert decided == {decision.key: decision.value for decision in plan.decisions}


def test_plan_prints_what_the_run_directory_would_hold_and_makes_nothing(
    command: Any, folder: Path
) -> None:
    code, out, err = command(
        "plan",
        "job.yaml",
        "--no-memory",
        "--storage",
        "elsewhere",
        "--set",
        "resources.cpus_per_rank=512",
    )
    plan = RunPlan.model_validate_json(out)
    assert code == 0
    assert json.loads(out)["schema"] == 1
    assert plan.storage == str(folder / "elsewhere")
    assert err.splitlines()[: len(plan.warnings)] == [f"warning: {w}" for w in plan.warnings]
    assert "512" in err
    assert sorted(path.name for path in folder.iterdir()) == ["job.yaml", "mine.py"]


def test_plan_shows_what_submit_would_send(command: Any, folder: Path) -> None:
    (folder / "table.csv").write_bytes(bytes(3000))
    (folder / ".env").write_text("KEY=1")
    code, out, err = command("plan", "job.yaml", "--no-memory")
    assert code == 0
    total, first = err.splitlines()[-4:-2]
    assert re.fullmatch(r"submit would send 3 files of 3\.\d KiB; the largest:", total)
    assert first == "  2.9 KiB  table.csv"
    code, out, err = command("plan", "job.yaml", "--no-memory", "-o", "json")
    document = json.loads(out)
    upload = document.pop("upload")
    plan = RunPlan.model_validate(document)
    assert document == plan.model_dump(mode="json")
    assert upload["bytes"] == sum((folder / n).stat().st_size for n in sendable(folder))
    assert (upload["files"], upload["refused"]) == (3, "")
    assert upload["largest"][0] == {"name": "table.csv", "bytes": 3000}
    assert "submit" not in err


def test_plan_tells_the_memory_of_a_rank_with_each_strategy(command: Any, folder: Path) -> None:
    (folder / "mine.py").write_text(TRAINABLE)
    code, out, _ = command("plan", "job.yaml", "-o", "json")
    memory = json.loads(out)["memory"]
    assert code == 0
    assert (memory["absent"], memory["method"], memory["samples"]) == ("", "fake tensors", 8)
    rows = {row["strategy"]: row for row in memory["strategies"]}
    assert list(rows) == ["ddp", "zero-0", "zero-1", "zero-2", "zero-3"]
    assert [name for name, row in rows.items() if row["chosen"]] == ["ddp"]
    assert all(row["fits"] for row in rows.values())
    assert rows["ddp"]["parameters_bytes"] == (8 * 4 + 4) * 4
    assert rows["ddp"]["device_bytes"] > rows["ddp"]["process_bytes"] > 50 << 20


def test_a_model_that_cannot_be_built_has_a_plan_and_no_estimate(command: Any) -> None:
    code, out, err = command("plan", "job.yaml")
    assert code == 0
    RunPlan.model_validate_json(out)
    assert err.splitlines()[-1].startswith("no estimate of memory: TypeError: ")


def test_without_memory_nothing_of_it_is_told(command: Any) -> None:
    _, out, err = command("plan", "job.yaml", "--no-memory", "-o", "json")
    assert "memory" not in json.loads(out)
    _, _, err = command("plan", "job.yaml", "--no-memory")
    assert "memory" not in err


def sendable(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != ".env"]


def test_a_folder_too_large_to_send_is_planned_all_the_same(command: Any, folder: Path) -> None:
    with (folder / "data.bin").open("wb") as file:
        file.truncate(101 << 20)
    code, out, err = command("plan", "job.yaml", "--no-memory")
    assert code == 0
    RunPlan.model_validate_json(out)
    assert f"submit would refuse: {folder} has 3 files of 101.0 MiB to send, more than" in err
    code, out, _ = command("plan", "job.yaml", "--no-memory", "-o", "json")
    upload = json.loads(out)["upload"]
    assert code == 0
    assert upload["files"] == 3
    assert upload["refused"].startswith(f"{folder} has 3 files of 101.0 MiB")


def test_the_schema_describes_every_section(command: Any) -> None:
    code, out, _ = command("schema")
    schema = json.loads(out)
    assert code == 0
    assert {"name", "train", "resources"} <= set(schema["properties"])
    assert schema["properties"]["name"]["description"]


def test_values_with_brackets_survive_a_terminal(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = command("explain", "job.yaml", "--set", "model.args={a: '[red]', b: [[]]}")
    assert "[red]" in out
    assert "…" not in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["validate", "job.yaml"],
        ["schema"],
        ["validate", "--help"],
    ],
    ids=" ".join,
)
def test_a_quick_command_imports_nothing_slow(arguments: list[str], folder: Path) -> None:
    assert not HEAVY & imported_by(arguments, folder)


@pytest.mark.parametrize("arguments", [["explain", "job.yaml"], ["plan", "job.yaml"]], ids=" ".join)
def test_planning_imports_no_framework(arguments: list[str], folder: Path) -> None:
    assert not FRAMEWORKS & imported_by(arguments, folder)


def imported_by(arguments: list[str], folder: Path) -> set[str]:
    """The modules that a process has loaded once the command is done."""
    code = (
        "import atexit, sys; from launcher.cli import main\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv[1:] = {arguments!r}; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_a_reader_that_had_enough_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "launcher", "schema"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")
