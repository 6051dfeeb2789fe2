"""What the planner decides for a spec, and what it says cannot be."""

from typing import Any

import pytest

from launcher.errors import PreflightError
from launcher.plan import RunPlan
from launcher.planner import changes_refused, make_plan, problems, resized, world_sizes
from launcher.resources import Resources
from launcher.spec import JobSpec
from tests.plans import H100, T4, host


def spec(**changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "name": "job",
        "model": "models:Net",
        "data": {"train": "data:train"},
        "train": {"optimizer": "torch.optim:SGD", "global_batch_size": 16, "max_epochs": 2},
    }
    for key, value in changes.items():
        section = values.get(key)
        merge = isinstance(section, dict) and isinstance(value, dict)
        values[key] = {**section, **value} if merge else value  # type: ignore[dict-item]
    return JobSpec.model_validate(values)


def plan(
    on: Resources | None = None, /, *, earlier: RunPlan | None = None, **changes: Any
) -> RunPlan:
    return make_plan(
        spec(**changes),
        on or host(),
        run_id="job-20261122-134501-3fa9",
        storage="/runs",
        code_dir="/code",
        earlier=earlier,
    )


def messages(on: Resources | None = None, /, **changes: Any) -> list[str]:
    found = problems(spec(**changes), on or host())
    return [".".join(map(str, problem.key)) + " " + problem.message for problem in found]


def test_a_complete_spec_has_no_problems() -> None:
    assert messages() == []


def test_a_batch_that_does_not_divide_names_the_nearest_that_do() -> None:
    assert messages(resources={"world_size": 7}) == [
        "train.global_batch_size is 16, not a multiple of 7 ranks; try 14 or 21"
    ]


def test_a_micro_batch_that_does_not_divide_names_the_nearest_that_do() -> None:
    assert messages(train={"micro_batch_size": 3}, resources={"world_size": 2}) == [
        "train.micro_batch_size is 3, which does not divide the 8 samples of each rank; try 2 or 4"
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"task": "tasks:Gan"}, "task"),
        ({"model": None}, ""),
        ({"data": {"train": None}}, "data"),
        ({"model": None, "task": "tasks:Gan"}, "data.train"),
        ({"eval": {"metrics": ["accuracy"]}}, "eval"),
        ({"train": {"max_epochs": None}}, "train"),
        ({"data": {"loader": {"num_workers": 0, "prefetch_factor": 2}}}, "data.loader"),
        ({"resources": {"world_size": [8, 2]}}, "resources.world_size"),
    ],
)
def test_a_combination_that_cannot_be_is_named_at_its_key(
    changes: dict[str, Any], key: str
) -> None:
    assert any(message.startswith(key) for message in messages(**changes))


def test_the_fastest_native_precision_is_chosen_and_the_reason_kept() -> None:
    assert plan().train.precision == "bf16"
    assert plan(host(cpu_native_bf16=False)).train.precision == "fp32"
    assert plan(host(gpus=(H100,))).train.precision == "bf16"
    turing = plan(host(gpus=(T4,)))
    assert turing.train.precision == "fp16"
    reasons = {decision.key: decision.reason for decision in turing.decisions}
    assert reasons["train.precision"] == "the fastest native to T4"


def test_what_the_spec_says_is_no_decision() -> None:
    chosen = plan(train={"precision": "fp32"})
    assert chosen.train.precision == "fp32"
    assert "train.precision" not in {decision.key for decision in chosen.decisions}


def test_ranks_get_a_gpu_each_and_share_the_cores() -> None:
    ranks = plan(host(gpus=(H100, H100))).ranks
    assert (ranks.world_size, ranks.device, ranks.backend) == (2, "cuda", "nccl")
    assert ranks.threads_per_rank == 4


def test_more_ranks_than_gpus_is_refused_with_what_to_set() -> None:
    with pytest.raises(PreflightError, match="world_size to 1"):
        plan(host(gpus=(H100,)), resources={"world_size": 2})
    with pytest.raises(PreflightError, match="are 0; set resources"):
        plan(host(), resources={"world_size": 2, "gpus_per_rank": 1})


def test_of_a_range_as_many_ranks_as_fit_and_divide_the_batch() -> None:
    assert plan(host(cores=7), resources={"world_size": [2, 16]}).ranks.world_size == 4
    assert plan(host(cores=1), resources={"world_size": [2, 16]}).ranks.world_size == 2


def test_oversubscribed_cores_and_slow_precision_are_warnings() -> None:
    slow = plan(host(cores=1), resources={"world_size": 2}, train={"precision": "fp16"})
    assert len(slow.warnings) == 2


def test_nothing_is_absent_in_a_plan() -> None:
    def absent(value: Any) -> bool:
        if isinstance(value, dict):
            return any(map(absent, value.values()))
        if isinstance(value, list):
            return any(map(absent, value))
        return value is None or value in ("auto", -1)

    assert not absent(plan().model_dump(mode="json"))


def test_wandb_is_offline_where_no_key_is_found() -> None:
    tracked = {"tracking": {"wandb": {"project": "p"}}}
    assert plan(**tracked).tracking[0].mode == "offline"
    assert plan(host(wandb_key=True), **tracked).tracking[0].mode == "online"


def test_a_resumed_run_keeps_its_arithmetic_on_another_host() -> None:
    before = plan(host(cores=8))
    after = plan(host(cores=2, cpu_native_bf16=False), earlier=before)
    assert after.train == before.train
    assert after.ranks == before.ranks


def test_a_resume_at_another_world_size_decides_anew() -> None:
    before = plan(resources={"world_size": 2})
    after = plan(resources={"world_size": 4}, earlier=before)
    assert (before.train.micro_batch_size, after.train.micro_batch_size) == (8, 4)


def test_a_plan_survives_its_own_json() -> None:
    one = plan(eval={"metrics": ["accuracy", "perplexity"]}, data={"eval": "data:test"})
    assert RunPlan.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["mine:loss"], "eval.metrics.0 is the second that is named 'loss'; "),
        (["a:mean", "b:mean"], "eval.metrics.1 is the second that is named 'mean'; "),
        (["mine:perplexity"], "eval.metrics.0 is named 'perplexity', which is exp(loss); "),
        ([{"target": "loss", "name": "l"}], "eval.metrics.0 'loss' takes neither a name nor args"),
    ],
)
def test_metrics_of_one_name_would_overwrite_each_other(metrics: list[Any], said: str) -> None:
    changes = {"data": {"eval": "data:eval"}, "eval": {"metrics": metrics}}
    assert [message.startswith(said) for message in messages(**changes)] == [True]
    assert messages(data={"eval": "data:eval"}, eval={"metrics": ["loss", "perplexity"]}) == []


def test_what_a_checkpoint_depends_on_cannot_change_when_a_run_goes_on() -> None:
    before = plan()
    after = plan(name="other", seed=9, train={"optimizer": "torch.optim:AdamW"})
    refused = [".".join(map(str, p.key)) for p in changes_refused(before, after)]
    assert refused == ["name", "seed", "train.optimizer.target"]
    assert not list(changes_refused(before, plan(train={"max_epochs": 9})))


def test_another_world_size_keeps_the_batch_and_never_makes_a_micro_batch_larger() -> None:
    elastic = plan(
        resources={"world_size": [1, 8]}, train={"global_batch_size": 24, "micro_batch_size": 3}
    )
    assert world_sizes(elastic) == [1, 2, 3, 4, 6, 8]
    sizes = {n: resized(elastic, n).train.micro_batch_size for n in world_sizes(elastic)}
    assert sizes == {1: 3, 2: 3, 3: 2, 4: 3, 6: 2, 8: 3}
    assert all(resized(elastic, n).ranks.world_size == n for n in sizes)


def test_threads_are_cores_of_one_host() -> None:
    two_hosts = host(cores=7, cores_by_host=(4, 3))
    assert plan(two_hosts, resources={"world_size": 2}).ranks.threads_per_rank == 3
    assert plan(two_hosts, resources={"world_size": 4}).ranks.threads_per_rank == 1
