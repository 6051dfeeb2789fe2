"""One rank from its plan to its report, in this process: what it trains, saves and resumes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher import checkpoint, rundir
from launcher.contracts import Attempt
from launcher.distributed import Rank
from launcher.outcome import AttemptEnd
from launcher.rundir import RunDir
from launcher.worker import Place, run_rank
from tests.plans import make_plan, ranks


def task(model: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "declared",
        "model": model or {"target": "tests.toy:Net"},
        "train_data": {"target": "tests.toy:Points"},
        "eval_data": [{"target": "tests.toy:Points", "args": {"samples": 7}}],
        "loss": {"target": "torch.nn:CrossEntropyLoss"},
        **changes,
    }


def train(**changes: Any) -> dict[str, Any]:
    return {
        "optimizer": {"target": "torch.optim:AdamW", "args": {"lr": 0.01}},
        "schedule": {
            "target": "torch.optim.lr_scheduler:MultiStepLR",
            "args": {"milestones": [4, 6], "gamma": 0.5},
            "warmup_steps": 2,
        },
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "limits": [{"unit": "epochs", "count": 3}],
        "precision": "fp32",
        "clip_grad_norm": 1.0,
        "compile": False,
        "recomputed": [],
        **changes,
    }


class OneRank:
    """Runs attempts of a one-rank run in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(str(folder))
        folder.mkdir(exist_ok=True)
        self._beats = 0

    def __call__(
        self, *, resume: bool = False, stop_after: int | None = None, **plan: Any
    ) -> AttemptEnd:
        values = {
            "task": task(),
            "train": train(),
            "ranks": ranks(1),
            **plan,
        }
        self._beats = 0
        name = checkpoint.newest_valid(self.run_dir).name if resume else ""
        attempt = Attempt(plan=make_plan(**values), run_dir=self.run_dir, number=1, checkpoint=name)
        return run_rank(
            attempt,
            Place(
                rank=Rank(
                    rank=0,
                    world_size=1,
                    local_rank=0,
                    local_world_size=1,
                    device=torch.device("cpu"),
                ),
                rendezvous=None,
                stop_wanted=lambda: stop_after is not None and self._beats >= stop_after,
                beat=self._beat,
            ),
        )

    def _beat(self) -> None:
        self._beats += 1

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.run_dir.read_lines(rundir.METRICS))

    def state(self, step: int) -> dict[str, torch.Tensor]:
        folder = self.run_dir.local(rundir.checkpoint_name(step))
        return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")


@pytest.fixture
def rank(tmp_path: Path) -> OneRank:
    return OneRank(tmp_path / "run")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_every_step_has_one_row_and_an_evaluation_joins_the_row_of_its_step(rank: OneRank) -> None:
    assert rank().status == "succeeded"
    assert [row["step"] for row in rank.rows] == list(range(1, 10))
    assert [row["epoch"] for row in rank.rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [row["step"] for row in rank.rows if "eval_loss" in row] == [5, 9]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stopped_and_resumed_run_has_the_weights_of_an_unbroken_one(
    tmp_path: Path, precision: str
) -> None:
    unbroken, broken = OneRank(tmp_path / "unbroken"), OneRank(tmp_path / "broken")
    plan = {"train": train(precision=precision)}
    unbroken(**plan)
    assert broken(stop_after=5, **plan).status == "stopped"
    assert broken(resume=True, **plan).status == "succeeded"
    assert same(unbroken.state(9), broken.state(9))


def test_loader_processes_do_not_change_a_bit_of_the_weights(tmp_path: Path) -> None:
    alone, helped = OneRank(tmp_path / "alone"), OneRank(tmp_path / "helped")
    alone()
    helped(loader={"num_workers": 2, "prefetch_factor": 2, "pin_memory": False})
    assert same(alone.state(9), helped.state(9))


def test_accumulated_micro_batches_give_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = OneRank(tmp_path / "whole"), OneRank(tmp_path / "parts")
    plain = task({"target": "tests.toy:linear"})
    whole(task=plain, train=train(micro_batch_size=8))
    parts(task=plain, train=train(micro_batch_size=4))
    one, other = whole.state(9), parts.state(9)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_tied_weights_are_saved_once_and_tied_again(rank: OneRank) -> None:
    tied = task({"target": "tests.toy:Net", "args": {"tied": True}})
    rank(task=tied, stop_after=5)
    assert rank(task=tied, resume=True).status == "succeeded"
    assert ("first.weight" in rank.state(9)) != ("second.weight" in rank.state(9))


def test_a_changed_learning_rate_takes_effect_on_resume(rank: OneRank) -> None:
    rank(stop_after=5)
    rank(
        resume=True,
        train=train(optimizer={"target": "torch.optim:AdamW", "args": {"lr": 0.5}}),
    )
    assert rank.rows[-1]["lr"] == pytest.approx(0.5 * 0.25)


def test_a_loss_that_is_not_a_number_ends_the_run_and_is_never_saved(rank: OneRank) -> None:
    end = rank(task=task(loss={"target": "tests.toy:nan_loss"}))
    assert end.failure is not None
    assert (end.failure.kind, end.failure.message) == ("diverged", "the loss of step 1 is nan")
    assert checkpoint.committed_steps(rank.run_dir) == []


def test_a_custom_task_trains_and_reports_metrics_of_its_own(rank: OneRank) -> None:
    custom = {"kind": "custom", "task": {"target": "tests.toy:Regression"}}
    assert rank(task=custom).status == "succeeded"
    assert [row["step"] for row in rank.rows] == [1, 2, 3, 4, 5, 6]
    assert rank.rows[-1]["eval_ones"] == 1.0


def test_accuracy_and_perplexity_count_each_sample_once(rank: OneRank) -> None:
    evaluation = {
        "every_steps": 5,
        "metrics": [{"name": "accuracy", "call": {"target": "launcher.task:accuracy"}}],
        "perplexity": True,
    }
    rank(evaluation=evaluation)
    last = rank.rows[-1]
    assert last["eval_accuracy"] * 7 == pytest.approx(round(last["eval_accuracy"] * 7))
    assert last["eval_perplexity"] == pytest.approx(2.718281828459045 ** last["eval_loss"])


def test_only_the_newest_checkpoints_are_kept(rank: OneRank) -> None:
    rank(checkpoint={"every_steps": 2, "keep_last": 2})
    assert checkpoint.committed_steps(rank.run_dir) == [8, 9]


def test_a_checkpoint_has_no_pickle_in_it(rank: OneRank) -> None:
    rank()
    folder = rank.run_dir.local(rundir.checkpoint_name(9))
    names = {path.name for path in folder.iterdir()}
    assert names == {"manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"}
    assert json.loads((folder / "state.json").read_text())["step"] == 9


def test_a_wrong_target_is_an_error_of_the_spec(rank: OneRank) -> None:
    end = rank(task=task({"target": "tests.toy:Nett"}))
    assert end.failure is not None
    assert end.failure.kind == "spec"
    assert "Net" in end.failure.message


def test_the_first_draw_from_numpy_is_seeded_too() -> None:
    code = (
        "from launcher.data.randomness import seed_cpu\n"
        "seed_cpu(7)\n"
        "import numpy as np\n"
        "first = np.random.rand()\n"
        "seed_cpu(7)\n"
        "assert np.random.rand() == first"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_metric_that_is_no_number_is_refused_before_the_first_step(rank: OneRank) -> None:
    metric = {"name": "hits", "call": {"target": "tests.toy:hits"}}
    evaluation = {"every_steps": 5, "metrics": [metric], "perplexity": False}
    end = rank(evaluation=evaluation)
    assert end.failure
    assert end.failure.message.startswith("eval.metrics: hits returned the shape (1, 2), not one")
    assert rank.rows == []


def test_an_epoch_that_is_begun_does_not_go_on_over_other_data(rank: OneRank) -> None:
    rank(train=train(limits=[{"unit": "steps", "count": 4}]))
    fewer = task(train_data={"target": "tests.toy:Points", "args": {"samples": 20}})
    end = rank(resume=True, task=fewer)
    assert end.failure
    assert end.failure.message.startswith(
        "data.train has 20 samples, and the run goes on at sample"
    )
    assert rank(resume=True).status == "succeeded"
