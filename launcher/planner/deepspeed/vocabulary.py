"""DeepSpeed's own keys, release 0.19, and which of them a run of the launcher cannot follow.

Read in its `runtime/config.py`, `runtime/zero/config.py` and what these call.
"""

from launcher.spec import Key

_DATA_PARALLEL = "only data, and what ZeRO splits, is divided among ranks here"
_LOADING = "the launcher loads the data, and decides the order of samples"
_SAVING = "the launcher writes checkpoints, as the spec's `checkpoint` says"
_GONE = "it was removed from DeepSpeed"
_QUANTIZED = "quantized communication is not supported"

REMOVED: dict[Key, str] = {
    **{
        (name,): _GONE
        for name in (
            "compression_training",
            "eigenvalue",
            "graph_harvesting",
            "nebula",
            "progressive_layer_drop",
            "quantize_training",
            "sparse_attention",
            "sparse_gradients",
        )
    },
    ("amp",): f"{_GONE}; train.precision says the precision",
    ("curriculum_learning",): _LOADING,
    ("elasticity",): "a run is elastic with resources.world_size: [min, max]",
    ("zero_optimization", "mics_shard_size"): _GONE,
    ("zero_optimization", "mics_hierarchical_params_gather"): _GONE,
    ("zero_optimization", "zeropp_loco_param"): _GONE,
}
"""DeepSpeed stops at these whatever their value."""

REFUSED: dict[Key, str] = {
    ("activation_checkpointing",): "train.recompute names the module classes for that",
    ("autotuning",): "it starts runs of its own",
    ("bfloat16",): "it is the old name of bf16; write that",
    ("checkpoint",): _SAVING,
    ("compile",): "train.compile says whether to compile, and DeepCompile is not supported",
    ("data_efficiency",): _LOADING,
    ("dataloader_drop_last",): _LOADING,
    ("datastates_ckpt",): _SAVING,
    ("expert_parallel",): _DATA_PARALLEL,
    ("hybrid_engine",): "it is for generating text between steps",
    ("pipeline",): _DATA_PARALLEL,
    ("scheduler",): "train.schedule names the learning rate's schedule",
    ("seq_parallel_communication_data_type",): _DATA_PARALLEL,
    ("sequence_parallel_size",): _DATA_PARALLEL,
    ("tensor_parallel",): _DATA_PARALLEL,
    ("use_data_before_expert_parallelism",): _DATA_PARALLEL,
    ("wandb",): "tracking.wandb streams to Weights & Biases",
    ("weight_quantization",): "it is for inference",
    ("zero_optimization", "cpu_offload"): "write offload_optimizer: {device: cpu}",
    ("zero_optimization", "cpu_offload_param"): "write offload_param: {device: cpu}",
    ("zero_optimization", "cpu_offload_use_pin_memory"): "write pin_memory beside the device",
    ("zero_optimization", "legacy_stage1"): _GONE,
    ("zero_optimization", "zenflow"): "it updates weights late, which no checkpoint could resume",
    ("zero_optimization", "zero_hpz_partition_size"): "a second split of weights is not supported",
    ("zero_optimization", "zero_quantized_gradients"): _QUANTIZED,
    ("zero_optimization", "zero_quantized_nontrainable_weights"): _QUANTIZED,
    ("zero_optimization", "zero_quantized_weights"): _QUANTIZED,
    ("zero_optimization", "offload_optimizer", "super_offload"): "SuperOffload is not supported",
}
"""What stands in a config although it is off is no harm."""

_OFFLOAD = frozenset(("device", "nvme_path", "buffer_count", "pin_memory"))
_STAGE_3 = (
    "prefetch_bucket_size",
    "param_persistence_threshold",
    "model_persistence_threshold",
    "max_live_parameters",
    "max_reuse_distance",
    "gather_16bit_weights_on_model_save",
    "module_granularity_threshold",
    "use_all_reduce_for_fetch_params",
    "allgather_sequential",
)
"""Known with and without `stage3_` before them."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PASSED: dict[Key, frozenset[str]] = {
    (): _words(
        """
        train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps
        gradient_clipping prescale_gradients gradient_predivide_factor gradient_allreduce_op
        managed_gradient_accumulation communication_data_type disable_allgather
        optimizer zero_optimization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
        fp16 bf16 torch_autocast data_types aio
        steps_per_print wall_clock_breakdown memory_breakdown dump_state log_level timers
        flops_profiler comms_logger tensorboard csv_monitor comet
        disable_python_gc vocabulary_size
        """
    ),
    ("optimizer",): _words("type params legacy_fusion"),
    ("fp16",): _words(
        """
        enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis
        consecutive_hysteresis min_loss_scale fp16_master_weights_and_grads
        """
    ),
    ("bf16",): _words(
        """
        enabled immediate_grad_update check_grad_overflow bf16_master_weights_and_grads
        bf16_optimizer_states
        """
    ),
    ("torch_autocast",): _words("enabled dtype lower_precision_safe_modules"),
    ("data_types",): _words("grad_accum_dtype param_dtype buffer_dtype keep_in_fp32_modules"),
    ("zero_optimization",): _words(
        """
        stage contiguous_gradients reduce_scatter reduce_bucket_size
        use_multi_rank_bucket_allreduce allgather_partitions allgather_bucket_size overlap_comm
        compute_grad_norm load_from_fp32_weights elastic_checkpoint offload_param
        offload_optimizer sub_group_size ignore_unused_parameters round_robin_gradients
        parameter_alignment memory_efficient_linear pipeline_loading_checkpoint
        override_module_apply log_trace_cache_warnings enable_sanity_checks
        save_muon_momentum_buffer_in_memory leaf_module stage3_gather_fp16_weights_on_model_save
        """
    )
    | {f"{prefix}{name}" for prefix in ("", "stage3_") for name in _STAGE_3},
    ("zero_optimization", "offload_param"): _OFFLOAD | {"buffer_size", "max_in_cpu"},
    ("zero_optimization", "offload_optimizer"): _OFFLOAD
    | {"pipeline_read", "pipeline_write", "fast_init", "ratio", "cpuadam_cores_perc"},
}
"""By section, all other keys: they go on to DeepSpeed, or agree with what does."""
