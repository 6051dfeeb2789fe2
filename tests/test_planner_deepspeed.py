"""What DeepSpeed's engine is configured with, and what is wrong with a person's own config."""

from typing import Any

import pytest

from launcher.errors import PreflightError
from launcher.plan import Deepspeed, RunPlan
from launcher.planner import changes_refused, make_plan, problems, resized
from launcher.resources import Resources
from launcher.spec import JobSpec
from tests.plans import H100, T4, host

AUTOCAST = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}


def spec(
    config: dict[str, Any] | None = None,
    /,
    *,
    strategy: dict[str, Any] | None = None,
    resources: dict[str, Any] | None = None,
    **train: Any,
) -> JobSpec:
    """A spec of two ranks with `strategy: deepspeed`; keywords are fields of `train`."""
    optimizer = {"target": "torch.optim:AdamW", "args": {"lr": 0.1, "betas": [0.9, 0.95]}}
    values: dict[str, Any] = {
        "name": "job",
        "model": "models:Net",
        "data": {"train": "data:train"},
        "train": {"optimizer": optimizer, "global_batch_size": 16, "max_epochs": 2, **train},
        "strategy": {"name": "deepspeed", "config": config, **(strategy or {})},
        "resources": resources or {"world_size": 2},
    }
    return JobSpec.model_validate(values)


def plan(asked: JobSpec, on: Resources | None = None, *, earlier: RunPlan | None = None) -> RunPlan:
    return make_plan(
        asked,
        on or host(),
        run_id="job-20261122-134501-3fa9",
        storage="/runs",
        code_dir="/code",
        earlier=earlier,
    )


def engine(asked: JobSpec, on: Resources | None = None) -> dict[str, Any]:
    """All that the engine is configured with."""
    assert not list(problems(asked, on or host()))
    strategy = plan(asked, on).strategy
    assert isinstance(strategy, Deepspeed)
    assert strategy.zero_stage == strategy.config["zero_optimization"]["stage"]
    return strategy.config


def told(asked: JobSpec, on: Resources | None = None) -> list[tuple[str, str, str]]:
    """Of each problem its key, its second key, and its words, in short keys."""
    return [
        (
            ".".join(map(str, problem.key)).removeprefix("strategy.config."),
            ".".join(map(str, problem.other or ())).removeprefix("strategy.config."),
            problem.message.replace("strategy.config.", ""),
        )
        for problem in problems(asked, on or host())
    ]


def test_every_field_of_the_spec_has_its_place_in_the_engines_config() -> None:
    asked = spec(
        strategy={
            "zero_stage": 3,
            "offload_optimizer": "nvme",
            "offload_parameters": "cpu",
            "nvme_path": "/fast",
        },
        micro_batch_size=4,
        precision="bf16",
        clip_grad_norm=0.5,
    )
    assert engine(asked) == {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5,
        "torch_autocast": AUTOCAST,
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "nvme", "nvme_path": "/fast"},
            "offload_param": {"device": "cpu"},
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def test_what_is_said_nowhere_is_decided() -> None:
    found = engine(spec(precision="fp32"))
    assert found["zero_optimization"] == {"stage": 2}
    assert found["gradient_clipping"] == 0.0
    assert found["train_micro_batch_size_per_gpu"] == 8
    assert not {"bf16", "fp16", "torch_autocast"} & found.keys()


def test_a_persons_config_is_merged_in_and_auto_is_as_the_spec_says() -> None:
    config = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "steps_per_print": 10,
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": "auto", "lower_precision_safe_modules": ["torch.nn.Linear"]},
        "optimizer": {"type": "adamw", "params": {"lr": 0.1, "betas": [0.9, 0.95], "eps": "auto"}},
        "zero_optimization": {
            "stage": "auto",
            "overlap_comm": None,
            "reduce_bucket_size": "auto",
            "round_robin_gradients": True,
            "offload_optimizer": {"pin_memory": False, "buffer_count": "auto"},
        },
        "hybrid_engine": {"enabled": False},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
        "activation_checkpointing": {"cpu_checkpointing": False, "number_checkpoints": None},
    }
    strategy = {"zero_stage": 1, "offload_optimizer": "cpu"}
    found = engine(spec(config, strategy=strategy, precision="fp32", clip_grad_norm=1.0))
    assert found == {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "steps_per_print": 10,
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False, "lower_precision_safe_modules": ["torch.nn.Linear"]},
        "zero_optimization": {
            "stage": 1,
            "round_robin_gradients": True,
            "offload_optimizer": {"device": "cpu", "pin_memory": False},
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def test_what_only_the_config_says_is_taken_and_the_decision_says_so() -> None:
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu"},
            "offload_param": {"device": "none"},
        },
    }
    chosen = plan(spec(config))
    assert chosen.train.micro_batch_size == 2
    assert chosen.train.clip_grad_norm == 0.5
    assert chosen.train.precision == "bf16"
    reasons = {d.key: (d.value, d.reason) for d in chosen.decisions if "config" in d.reason}
    assert reasons == {
        "train.micro_batch_size": (2, "as strategy.config.train_micro_batch_size_per_gpu says"),
        "train.clip_grad_norm": (0.5, "as strategy.config.gradient_clipping says"),
        "train.precision": ("bf16", "as strategy.config.bf16.enabled says"),
        "strategy.zero_stage": (3, "as strategy.config.zero_optimization.stage says"),
        "strategy.offload_optimizer": (
            "cpu",
            "as strategy.config.zero_optimization.offload_optimizer.device says",
        ),
    }
    accumulated = engine(spec({"gradient_accumulation_steps": 4}))
    assert accumulated["train_micro_batch_size_per_gpu"] == 2


@pytest.mark.parametrize(
    ("config", "stage", "precision", "on"),
    [
        ({}, 2, "bf16", {"torch_autocast": AUTOCAST}),
        ({"bf16": {"enabled": True}}, 1, "bf16", {"bf16": {"enabled": True}}),
        ({"bf16": {"enabled": "auto"}}, 1, "bf16", {"bf16": {"enabled": True}}),
        ({"bf16": {"enabled": "auto"}}, 0, "bf16", {"torch_autocast": AUTOCAST}),
        ({"bf16": {"enabled": "auto"}}, 1, "fp32", {}),
        ({"torch_autocast": {"enabled": True}}, 2, "bf16", {"torch_autocast": AUTOCAST}),
        ({}, 1, "fp16", {"fp16": {"enabled": True, "auto_cast": True}}),
        (
            {"torch_autocast": {"enabled": False}},
            1,
            "fp16",
            {"fp16": {"enabled": True, "auto_cast": True}},
        ),
        (
            {"fp16": {"enabled": "auto", "loss_scale": 8, "auto_cast": False}},
            3,
            "fp16",
            {"fp16": {"enabled": True, "auto_cast": False, "loss_scale": 8}},
        ),
        ({}, 0, "fp16", {"torch_autocast": {**AUTOCAST, "dtype": "float16"}}),
    ],
)
def test_precision_is_autocast_but_where_zero_has_to_scale_or_the_config_asks_for_weights_in_it(
    config: dict[str, Any], stage: int, precision: str, on: dict[str, Any]
) -> None:
    asked = spec(config, strategy={"zero_stage": stage}, precision=precision)
    found = engine(asked, host(gpus=(H100, H100)))
    ways = {name: found.get(name, {}) for name in ("bf16", "fp16", "torch_autocast")}
    assert {name: way for name, way in ways.items() if way.get("enabled")} == on


@pytest.mark.parametrize("section", [{"enabled": "auto"}, {"enabled": False, "auto_cast": True}])
def test_inputs_are_not_cast_where_fp16_is_off(section: dict[str, Any]) -> None:
    """DeepSpeed casts them whenever `auto_cast` is true, whatever the weights are."""
    found = engine(spec({"fp16": section}, precision="bf16"))
    assert found["fp16"] == {"enabled": False, "auto_cast": False}


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        ({"bf16": {"enabled": True}}, "bf16"),
        ({"fp16": {"enabled": True}}, "fp16"),
        ({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, "bf16"),
        ({"fp16": {"enabled": False}, "bf16": {"enabled": False}}, "fp32"),
        ({"fp16": {"enabled": False}, "bf16": {"enabled": "auto"}}, "bf16"),
        ({"fp16": {"loss_scale": 8}}, "bf16"),
    ],
)
def test_a_precision_that_the_spec_leaves_open_is_the_configs(
    config: dict[str, Any], precision: str
) -> None:
    assert not told(spec(config))
    assert plan(spec(config), host(gpus=(H100, H100))).train.precision == precision


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(PreflightError, match="is fp16, which DeepSpeed has on GPUs only"):
        plan(spec(precision="fp16"))
    assert plan(spec(), host(gpus=(T4, T4))).train.precision == "fp16"


@pytest.mark.parametrize(
    ("config", "train", "key", "other", "said"),
    [
        ({"train_batch_size": 32}, {}, "train.global_batch_size", "train_batch_size", "is 16, but"),
        (
            {"train_micro_batch_size_per_gpu": 2},
            {"micro_batch_size": 4},
            "train.micro_batch_size",
            "train_micro_batch_size_per_gpu",
            "is 4, but",
        ),
        (
            {"gradient_clipping": 0},
            {"clip_grad_norm": 1.0},
            "train.clip_grad_norm",
            "gradient_clipping",
            "is 1.0, but gradient_clipping is 0; make them agree, or say it in one place only",
        ),
        (
            {"gradient_accumulation_steps": 4},
            {"micro_batch_size": 4},
            "gradient_accumulation_steps",
            "train.global_batch_size",
            "is 4, but train.global_batch_size is 16: with 2 ranks and micro-batches of 4 that is",
        ),
        (
            {"gradient_accumulation_steps": 3},
            {},
            "gradient_accumulation_steps",
            "train.global_batch_size",
            "is 3, but train.global_batch_size is 16: with 2 ranks and micro-batches of 8 that is",
        ),
        ({"bf16": {"enabled": True}}, {"precision": "fp32"}, "train.precision", "bf16.enabled", ""),
        (
            {"fp16": {"enabled": False}},
            {"precision": "fp16"},
            "train.precision",
            "fp16.enabled",
            "",
        ),
        (
            {"torch_autocast": {"enabled": False}},
            {"precision": "bf16"},
            "train.precision",
            "torch_autocast.enabled",
            "is 'bf16', but torch_autocast.enabled is false",
        ),
        (
            {"torch_autocast": {"enabled": True}},
            {"precision": "fp32"},
            "train.precision",
            "torch_autocast.enabled",
            "is 'fp32', but torch_autocast.enabled is true",
        ),
        (
            {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
            {"precision": "fp16"},
            "train.precision",
            "torch_autocast.dtype",
            "is 'fp16', but torch_autocast.dtype is 'bfloat16'",
        ),
        (
            {"bf16": {"enabled": True}, "fp16": {"enabled": True}},
            {},
            "fp16.enabled",
            "bf16.enabled",
            "is true, and bf16.enabled is, too; keep the one that is meant",
        ),
        (
            {"optimizer": {"type": "Adam"}},
            {},
            "train.optimizer.target",
            "optimizer.type",
            "is 'torch.optim:AdamW', but optimizer.type is 'Adam'",
        ),
        (
            {"optimizer": {"params": {"lr": 0.2}}},
            {},
            "train.optimizer.args.lr",
            "optimizer.params.lr",
            "is 0.1, but optimizer.params.lr is 0.2",
        ),
        (
            {"optimizer": {"params": {"eps": 1e-6}}},
            {},
            "optimizer.params.eps",
            "train.optimizer",
            "is 1e-06, and train.optimizer has no such argument",
        ),
    ],
)
def test_a_contradiction_names_both_places(
    config: dict[str, Any], train: dict[str, Any], key: str, other: str, said: str
) -> None:
    ((found, second, words),) = told(spec(config, **train))
    assert (found, second) == (key, other)
    assert words.startswith(said)
    assert second in words


@pytest.mark.parametrize(
    ("field", "value", "zero"),
    [
        ("zero_stage", 1, {"stage": 3}),
        ("offload_optimizer", "cpu", {"offload_optimizer": {"device": "none"}}),
        ("offload_parameters", "cpu", {"offload_param": {"device": "nvme"}}),
        ("nvme_path", "/a", {"offload_param": {"device": "nvme", "nvme_path": "/b"}}),
    ],
)
def test_a_contradiction_about_zero_names_both_places(
    field: str, value: Any, zero: dict[str, Any]
) -> None:
    stage = {} if field == "zero_stage" else {"zero_stage": 3}
    found = told(spec({"zero_optimization": zero}, strategy={**stage, field: value}))
    assert [(key, other) for key, other, _ in found if other] == [
        (f"strategy.{field}", f"zero_optimization.{_path(zero, field)}")
    ]


def _path(zero: dict[str, Any], field: str) -> str:
    (name,) = zero
    return {"zero_stage": name, "nvme_path": f"{name}.nvme_path"}.get(field, f"{name}.device")


def test_steps_of_accumulation_say_nothing_of_a_run_whose_ranks_come_and_go() -> None:
    asked = spec({"gradient_accumulation_steps": 1}, resources={"world_size": [1, 4]})
    ((key, other, _),) = told(asked)
    assert (key, other) == ("gradient_accumulation_steps", "resources.world_size")


@pytest.mark.parametrize(
    ("config", "key", "said"),
    [
        ({"gradient_cliping": 1}, "gradient_cliping", "did you mean gradient_clipping?"),
        ({"zero": 3}, "zero", "unknown key of DeepSpeed; it would be passed over in silence"),
        ({"overlap_comm": True}, "overlap_comm", "overlap_comm belongs under zero_optimization"),
        (
            {"zero_optimization": {"stage3_max_live_parameter": 1}},
            "zero_optimization.stage3_max_live_parameter",
            "did you mean stage3_max_live_parameters?",
        ),
        (
            {"torch_autocast": {"enable": True}},
            "torch_autocast.enable",
            "did you mean enabled?",
        ),
        ({"zero_optimization": True}, "zero_optimization", "is true, must be a mapping"),
        ({"fp16": {"enabled": 1}}, "fp16.enabled", "is 1, must be true or false"),
        ({"train_batch_size": "16"}, "train_batch_size", "is '16', must be an integer over 0"),
        ({"gradient_clipping": -1}, "gradient_clipping", "is -1, must be a number of at least 0"),
        (
            {"zero_optimization": {"stage": 4}},
            "zero_optimization.stage",
            "is 4, must be from 0 to 3",
        ),
        (
            {"zero_optimization": {"offload_param": {"device": "disk"}}},
            "zero_optimization.offload_param.device",
            "is 'disk', must be none, cpu or nvme",
        ),
        (
            {"torch_autocast": {"enabled": True, "dtype": "float8"}},
            "torch_autocast.dtype",
            "is 'float8', must be bfloat16 or float16",
        ),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast.enabled", "without a dtype; say"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler", "train.schedule names"),
        ({"pipeline": {"stages": 2}}, "pipeline", "only data, and what ZeRO splits"),
        ({"elasticity": {"enabled": False}}, "elasticity", "resources.world_size: [min, max]"),
        ({"checkpoint": {}}, "checkpoint", "the launcher writes checkpoints"),
        ({"wandb": {"enabled": True}}, "wandb", "tracking.wandb"),
        ({"bfloat16": {"enabled": True}}, "bfloat16", "it is the old name of bf16; write that"),
        ({"gradient_allreduce_op": "sum"}, "gradient_allreduce_op", "must be mean: "),
        (
            {"zero_optimization": {"zenflow": {}}},
            "zero_optimization.zenflow",
            "it updates weights late",
        ),
        (
            {"zero_optimization": {"zero_quantized_weights": True}},
            "zero_optimization.zero_quantized_weights",
            "quantized communication",
        ),
        (
            {"zero_optimization": {"zero_hpz_partition_size": 8}},
            "zero_optimization.zero_hpz_partition_size",
            "a second split",
        ),
        (
            {"zero_optimization": {"cpu_offload": True}},
            "zero_optimization.cpu_offload",
            "write offload_optimizer: {device: cpu}",
        ),
    ],
)
def test_a_config_that_deepspeed_would_misread_or_a_run_cannot_follow_is_refused(
    config: dict[str, Any], key: str, said: str
) -> None:
    ((found, _, words),) = told(spec(config))
    assert found == key
    assert said in words


@pytest.mark.parametrize(
    "config",
    [
        {"wandb": {"enabled": False}, "autotuning": {"enabled": False}, "compile": None},
        {"zero_optimization": {"zero_hpz_partition_size": 1, "zero_quantized_weights": False}},
        {"zero_optimization": {"stage3_prefetch_bucket_size": 5e7, "prefetch_bucket_size": 1}},
        {"prescale_gradients": True, "gradient_predivide_factor": 2.0},
        {"data_types": {"grad_accum_dtype": "fp32"}, "aio": {"block_size": 1}},
        {"gradient_allreduce_op": "mean", "managed_gradient_accumulation": True},
    ],
)
def test_what_changes_nothing_or_is_deepspeeds_own_is_passed_on(config: dict[str, Any]) -> None:
    found = engine(spec(config))
    assert all(found[name] == value for name, value in config.items() if name in found) or (
        "zero_optimization" in config
    )


@pytest.mark.parametrize(
    ("strategy", "key", "said"),
    [
        ({"find_unused_parameters": True}, "find_unused_parameters", "is for ddp"),
        ({"offload_parameters": "cpu"}, "offload_parameters", "needs zero_stage 3, and that is 2"),
        (
            {"zero_stage": 0, "offload_optimizer": "cpu"},
            "offload_optimizer",
            "set zero_stage to 1 or more",
        ),
        (
            {"offload_optimizer": "nvme", "nvme_path": "/fast"},
            "offload_optimizer",
            "is nvme, which needs zero_stage 3, and that is 2; set it to 3, or offload to cpu",
        ),
        (
            {"zero_stage": 3, "offload_parameters": "nvme"},
            "offload_parameters",
            "is nvme, and there is no nvme_path",
        ),
        ({"nvme_path": "/fast"}, "nvme_path", "nothing is offloaded to nvme"),
        (
            {"zero_stage": 0, "config": {"bf16": {"enabled": True}}},
            "bf16.enabled",
            "take it away and set train.precision to bf16, which is autocast",
        ),
        (
            {"zero_stage": 0, "config": {"fp16": {"enabled": True}}},
            "fp16.enabled",
            "take it away and set train.precision to fp16, which is autocast",
        ),
        (
            {"config": {"torch_autocast": {"enabled": True, "dtype": "float16"}}},
            "torch_autocast.enabled",
            "say train.precision: fp16 instead",
        ),
        (
            {"zero_stage": 0, "config": {"data_types": {"grad_accum_dtype": "bf16"}}},
            "data_types.grad_accum_dtype",
            "needs zero_stage 2 or 3",
        ),
    ],
)
def test_fields_of_the_strategy_that_cannot_be_together(
    strategy: dict[str, Any], key: str, said: str
) -> None:
    ((found, _, words),) = told(spec(strategy=strategy))
    assert found.removeprefix("strategy.") == key
    assert said in words


def test_a_problem_with_what_the_config_says_stands_at_the_config() -> None:
    ((key, _, words),) = told(spec({"train_micro_batch_size_per_gpu": 3}))
    assert key == "train_micro_batch_size_per_gpu"
    assert words.startswith("is 3, which does not divide the 8 samples of each rank")
    config = {"zero_optimization": {"offload_param": {"device": "cpu"}}}
    ((key, _, _),) = told(spec(config))
    assert key == "zero_optimization.offload_param.device"


@pytest.mark.parametrize("field", [{"zero_stage": 2}, {"offload_optimizer": "cpu"}, {"config": {}}])
def test_with_ddp_a_field_of_deepspeed_asks_which_of_the_two_is_meant(
    field: dict[str, Any],
) -> None:
    ((key, _, words),) = told(spec(strategy={"name": "ddp", **field}))
    assert key == f"strategy.{next(iter(field))}"
    assert (
        words
        == "is for deepspeed, and the strategy's name is ddp; set name to deepspeed, or "
        + ("take it away")
    )


def test_another_world_size_has_its_own_batches_in_the_engines_config() -> None:
    elastic = plan(
        spec({"steps_per_print": 3}, resources={"world_size": [1, 4]}, micro_batch_size=4)
    )
    for ranks, steps in {1: 4, 2: 2, 4: 1}.items():
        strategy = resized(elastic, ranks).strategy
        assert isinstance(strategy, Deepspeed)
        assert strategy.config["gradient_accumulation_steps"] == steps
        assert strategy.config["train_batch_size"] == 16
        assert strategy.config["steps_per_print"] == 3


def test_a_run_may_go_on_with_another_strategy_stage_or_way_to_bf16() -> None:
    before = plan(spec(strategy={"zero_stage": 1}, precision="bf16"))
    native = spec({"bf16": {"enabled": True}}, strategy={"zero_stage": 3}, precision="bf16")
    for asked in (native, spec(strategy={"name": "ddp"}, precision="bf16")):
        assert not list(changes_refused(before, plan(asked, earlier=before)))


def test_a_resumed_run_keeps_a_precision_that_was_decided_but_for_what_its_config_says_now() -> (
    None
):
    before = plan(spec())
    slower = host(cpu_native_bf16=False)
    assert plan(spec(), slower, earlier=before).train.precision == "bf16"
    changed = spec({"bf16": {"enabled": False}, "fp16": {"enabled": False}})
    assert plan(changed, slower, earlier=before).train.precision == "fp32"


def test_nothing_is_absent_or_auto_in_the_engines_config() -> None:
    def open_values(value: Any) -> bool:
        if isinstance(value, dict):
            return any(map(open_values, value.values()))
        return value is None or value == "auto"

    config = {"a": "auto", "bf16": {"enabled": "auto", "x": None}}
    config = {"zero_optimization": {"stage": "auto", "offload_param": {"device": "auto"}}, **config}
    strategy = plan(spec(config)).strategy
    assert isinstance(strategy, Deepspeed)
    assert not open_values(strategy.config)
