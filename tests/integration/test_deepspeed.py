"""DeepSpeed trains what DDP trains, at every ZeRO stage, and keeps the same promises."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from launcher import rundir
from launcher.cli.asking import plan_spec
from launcher.rundir import RunDir
from tests.job import (
    LAST_STEP,
    Launcher,
    recorded_steps,
    reproducible,
    weights,
    write_job,
)
from tests.killing import Kill, survive
from tests.ordering import promised_steps

pytestmark = pytest.mark.integration

STAGES = [0, 1, 2, 3]
STEPS = 50
CHAR_GPT = Path(__file__).parents[2] / "job_specs" / "char_gpt.py"
CHARACTERS = {"block_size": 16, "stride": 16}
STRATEGIES = ("ddp", 0, 1, 2, 3)
Trained = Callable[[str, Any], RunDir]


def zero(stage: int, **more: str) -> dict[str, Any]:
    return {"name": "deepspeed", "zero_stage": stage, **more}


def char_gpt(folder: Path, *, precision: str, strategy: Any) -> Launcher:
    """Two ranks, two micro-batches a step, clipped gradients."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CHAR_GPT, folder)
    text = {"target": "char_gpt:text"}
    spec = write_job(
        folder,
        model={
            "target": "char_gpt:CharGPT",
            "args": {"n_layer": 2, "n_head": 2, "n_embd": 32, "dropout": 0.1},
        },
        data={
            "train": text | {"args": {"split": "train", **CHARACTERS}},
            "loader": {"num_workers": 0},
        },
        eval=None,
        strategy=strategy,
        train__loss="char_gpt:next_char_loss",
        train__optimizer={"target": "torch.optim:AdamW", "args": {"lr": 0.003}},
        train__global_batch_size=16,
        train__micro_batch_size=4,
        train__max_epochs=None,
        train__max_steps=STEPS,
        train__precision=precision,
        checkpoint={"every_steps": 10, "keep_last": 2},
    )
    return Launcher(spec)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Runs to the end by precision and stage, or "ddp"; those of a precision are made together."""
    made: dict[str, dict[Any, RunDir]] = {}

    def get(precision: str, strategy: Any) -> RunDir:
        if precision not in made:
            made[precision] = train_all(tmp_path_factory.mktemp(precision), precision)
        return made[precision][strategy]

    return get


def train_all(folder: Path, precision: str) -> dict[Any, RunDir]:
    """A run with each strategy, in one pair of processes."""
    found = {}
    for name in STRATEGIES:
        strategy = name if name == "ddp" else zero(name)
        launcher = char_gpt(folder / str(name), precision=precision, strategy=strategy)
        found[name] = RunDir(str(folder / str(name) / "run"))
        plan = plan_spec(launcher.spec, overrides=(), storage=str(folder)).plan
        found[name].write_json(rundir.PLAN, plan.model_dump(mode="json"))
    start_ranks("tests.rank_series", folder, *(run.path() for run in found.values()))
    return found


def start_ranks(module: str, folder: Path, *arguments: str) -> list[bytes]:
    """What two processes with that `__main__` say; they get their rank and where to meet first."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), str(folder / "store"), *arguments],
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    return said


def rows(run_dir: RunDir) -> list[dict[str, Any]]:
    return list(run_dir.read_lines(rundir.METRICS))


def column(run_dir: RunDir, name: str) -> list[float]:
    return [row[name] for row in rows(run_dir)]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("bf16", 1e-2)])
def test_every_stage_has_the_losses_of_ddp(
    precision: str, tolerance: float, stage: int, trained: Trained
) -> None:
    """To what rounding allows: gradients are summed in another order. A float of 32 bits has a
    relative error of 6e-8, one of bf16 4e-3; over 50 steps they grow by a small factor."""
    ours, ddp = trained(precision, stage), trained(precision, "ddp")
    for name in ("loss", "grad_norm", "lr"):
        assert column(ours, name) == pytest.approx(column(ddp, name), rel=tolerance)
    assert len(rows(ours)) == STEPS


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_rank_changes_no_weight_and_no_row(
    stage: int, trained: Trained, tmp_path: Path
) -> None:
    unbroken = trained("fp32", stage)
    with char_gpt(tmp_path, precision="fp32", strategy=zero(stage)) as launcher:
        story = survive(launcher, [Kill("rank 1", "training", 14 + stage)])
        assert story.end.exit_code == 0, story.end.stderr
        assert story.end.outcome["attempts"] == 2
        assert weights(launcher.run_dir) == weights(unbroken)
        assert reproducible(launcher.rows()) == reproducible(rows(unbroken))


def test_a_checkpoint_holds_whole_tensors_by_the_models_own_names(trained: Trained) -> None:
    ours, ddp = (
        load_file(run_dir.local(rundir.checkpoint_name(STEPS)) / "model.safetensors")
        for run_dir in (trained("fp32", 3), trained("fp32", "ddp"))
    )
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in ddp.items()}


WAY: list[tuple[int, int, Any]] = [
    (6, 2, zero(3, offload_optimizer="cpu", offload_parameters="cpu")),
    (12, 1, zero(2)),
    (18, 2, zero(1)),
    (24, 2, "ddp"),
    (LAST_STEP, 2, zero(2, offload_optimizer="cpu")),
]
"""Up to which step, on how many ranks, and how."""


def test_a_run_goes_on_with_other_ranks_and_other_strategies(tmp_path: Path) -> None:
    """No sample is repeated or skipped; steps 6 and 18 are in the middle of an epoch."""
    with Launcher(write_job(tmp_path)) as launcher:
        for until, ranks, strategy in WAY:
            changes = {
                "train.max_steps": until,
                "resources.world_size": ranks,
                "strategy": json.dumps(strategy),
            }
            sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
            ended = launcher.resume(*sets) if launcher.run_dirs else launcher.run(*sets)
            assert ended.exit_code == 0, ended.stderr
            assert ended.outcome["step"] == until
        taken = recorded_steps(launcher.folder)
    assert [
        [index for rank in sorted(taken[step]) for index in taken[step][rank]]
        for step in sorted(taken)
    ] == promised_steps()


def test_fp16_leaves_out_steps_that_overflow_and_goes_on_with_its_scale() -> None:
    """On a CPU that is said to have fp16: what the launcher does around it is the same."""
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0", "RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.half_weights"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=environment | {"WORLD_SIZE": "1"},
    )
    for found in json.loads(done.stdout.splitlines()[-1]).values():
        assert found["overflowed"] == 3
        assert found["losses"][:4] == [found["losses"][0]] * 4
        assert found["losses"][-1] < found["losses"][0]
        assert found["goes_on"]


@pytest.fixture(scope="module")
def split_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found."""
    said = start_ranks("tests.split_ranks", tmp_path_factory.mktemp("split"))
    return [json.loads(lines.splitlines()[-1]) for lines in said]


def test_a_model_that_is_built_split_has_the_weights_of_a_whole_one(
    split_ranks: list[dict[str, Any]],
) -> None:
    """Also where code sets them after the layers were made, and on both ranks."""
    for found in split_ranks:
        assert len(found["differing"]) == 5
        assert not any(found["differing"].values()), found


def test_vectors_as_long_as_what_a_rank_has_of_them_are_told_apart(
    split_ranks: list[dict[str, Any]],
) -> None:
    first, second = (found["parts"] for found in split_ranks)
    assert first == {"one": [0, [0.0, 1.0]], "other": [0, [10.0, 11.0]]}
    assert second == {"one": [2, [2.0, 3.0]], "other": [2, [12.0, 13.0]]}


def test_a_layer_without_a_gradient_is_not_moved_by_that_of_an_earlier_step(
    split_ranks: list[dict[str, Any]],
) -> None:
    assert [found["moved"] for found in split_ranks] == [False, False]


def test_offload_without_the_memory_is_refused_with_both_numbers(
    split_ranks: list[dict[str, Any]],
) -> None:
    assert split_ranks[0]["room"] == (
        "offload_optimizer to the CPU takes 4.0 GiB of this host's memory, and it has 1.0 GiB; set "
        "zero_stage to 3 and offload to nvme, or train with more hosts"
    )
