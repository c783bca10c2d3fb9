"""Options of Megatron that would break a promise, raise in the middle of a run, or do nothing, and why.

Each was looked up in the source of Megatron-core 0.16.1. Options of a mixture of experts: `moe.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.config.composition.command_line_text import as_typed

Refused = Mapping[str, tuple[tuple[Any, ...], str]]
"""By option: the values that are fine, and what is wrong with all others."""

OFF = (None, False)

UNREAD = "nothing reads it here; leave it out"
EIGHT_BITS = "for training in 8 bits set trainer.fp8; other recipes, and 4 bits, are not supported; leave it out"
OVERLAPPED_EXPERTS = "it needs a schedule of passes that rlscale does not have; leave it out"
_DROPS = "every pass would drop something else, so that not even the first step's ratio would be 1; leave it out"
_GRAPHS = "a graph has one size, and micro-batches differ in size; leave it out"
_OTHER_ARCHITECTURES = "it belongs to architectures that are not supported; leave it out"
_BUFFERS = "its buffers have one fixed size, while micro-batches differ, and are never allocated; leave it out"
_OFFLOADED = (
    "it remembers the micro-batches of the first step, and steps differ in theirs; use trainer.recompute to save memory"
)
_NO_FSDP = (
    "Megatron's FSDP is not supported; shard the optimizer's state with trainer.distributed_optimizer=true, or leave "
    "it out"
)
_TORCH_TYPE = "Megatron takes one of torch's types, which a configuration cannot hold; leave it out"
_ADAM = "the optimizer is Adam; leave it out"
_OTHER_RATES = "use optim.groups with lr_mult instead: a resumed run finds its groups by such multiples"


def refused(given: Mapping[str, Any], table: Refused, key: str) -> Iterator[str]:
    """A line for each option of the section `key` whose value is none of those that are fine."""
    for name, (fine, reason) in table.items():
        if name in given and not any(type(given[name]) is type(one) and given[name] == one for one in fine):
            yield f"{key}.{name}={as_typed(given[name])}: {reason}"


def _all(names: str, reason: str, *fine: Any) -> dict[str, tuple[tuple[Any, ...], str]]:
    """The same for several options."""
    return dict.fromkeys(names.split(), (fine, reason))


TRANSFORMER: Refused = {
    "hidden_dropout": ((0, 0.0), _DROPS),
    "attention_dropout": ((0, 0.0), _DROPS),
    "mtp_num_layers": ((None,), "set trainer.mtp=trained instead"),
    "mtp_loss_scaling_factor": ((), "set trainer.mtp_loss_scale instead"),
    "cuda_graph_impl": (("none",), _GRAPHS),
    **_all("enable_cuda_graph external_cuda_graph", _GRAPHS, *OFF),
    **_all(
        "cuda_graph_scope cuda_graph_use_single_mempool cuda_graph_retain_backward_graph cuda_graph_warmup_steps",
        _GRAPHS,
    ),
    # 8 and 4 bits: without Transformer Engine nothing happens; with it trainer.fp8 says which, and pads for it.
    **_all("fp8 fp4 quant_recipe", EIGHT_BITS, None),
    **_all("fp8_param fp4_param use_kitchen use_kitchen_attention activation_func_fp8_input_store", EIGHT_BITS, *OFF),
    **_all(
        "fp8_recipe fp8_quantizer_factory fp8_margin fp8_interval fp8_amax_history_len fp8_amax_compute_algo fp8_wgrad "
        "fp8_dot_product_attention fp8_multi_head_attention tp_only_amax_red first_last_layers_bf16 "
        "num_layers_at_start_in_bf16 num_layers_at_end_in_bf16 kitchen_attention_backend fp4_recipe "
        "fp4_quantizer_factory disable_parameter_transpose_cache",
        EIGHT_BITS,
    ),
    "enable_autocast": (OFF, "model.dtype says which type is computed in; leave it out"),
    "fp32_residual_connection": (OFF, "layers and pipeline stages hand on model.dtype and nothing else; leave it out"),
    "attention_backend": (
        (),
        "Megatron compares it with an enumeration of its own, which a configuration cannot hold, so it would do "
        "nothing; leave it out",
    ),
    "fused_single_qkv_rope": (OFF, "Megatron does not take packed sequences with it; leave it out"),
    "apply_query_key_layer_scaling": (OFF, "our attention does not read it; leave it out"),
    # Other schedules than the one that a pass goes through.
    **_all("hybrid_context_parallel", "rlscale packs the batch itself; leave it out", *OFF),
    **_all("max_seqlen_per_dp_cp_rank", "use trainer.max_tokens_per_microbatch instead"),
    "num_microbatches_with_partial_activation_checkpoints": (
        (None,),
        "Megatron calls the pass of a micro-batch in another way then; use trainer.recompute, or leave it out",
    ),
    **_all(
        "overlap_moe_expert_parallel_comm delay_wgrad_compute ep_overlap_early_attn_memory_release",
        OVERLAPPED_EXPERTS,
        *OFF,
    ),
    **_all(
        "defer_embedding_wgrad_compute",
        "rlscale makes the output layer's gradient itself, with the log-probs; leave it out",
        *OFF,
    ),
    **_all("wgrad_deferral_limit", UNREAD),
    "use_ring_exchange_p2p": (OFF, "it needs a torch that was built for it; leave it out"),
    "fine_grained_activation_offloading": (OFF, _OFFLOADED),
    **_all("offload_modules min_offloaded_tensor_size", _OFFLOADED),
    "tp_comm_overlap": (OFF, _BUFFERS),
    **_all(
        "tp_comm_bulk_wgrad tp_comm_bulk_dgrad tp_comm_overlap_ag tp_comm_overlap_rs tp_comm_overlap_rs_dgrad "
        "tp_comm_split_ag tp_comm_atomic_ag tp_comm_split_rs tp_comm_atomic_rs tp_comm_overlap_disable_qkv "
        "tp_comm_overlap_disable_fc1 tp_comm_bootstrap_backend",
        _BUFFERS,
    ),
    # Inference is the engines'. The last of these acts in passes without gradient all the same.
    **_all(
        "flash_decode mlp_chunks_for_prefill inference_rng_tracker inference_sampling_seed "
        "use_inference_optimized_layers inference_fuse_tp_communication",
        "engines generate, not Megatron; leave it out",
    ),
    **_all(
        "init_method output_layer_init_method init_method_std embedding_init_method embedding_init_method_std "
        "init_model_with_meta_device",
        "all weights are read (model.init), none is drawn; leave it out",
    ),
    **_all(
        "cross_entropy_loss_fusion cross_entropy_fusion_impl",
        "log-probs are not made by Megatron here; leave it out",
    ),
    **_all(
        "qk_clip_alpha qk_clip_threshold dsa_indexer_n_heads dsa_indexer_head_dim dsa_indexer_topk "
        "dsa_indexer_loss_coeff dsa_indexer_use_sparse_loss linear_attention_freq linear_conv_kernel_dim "
        "linear_key_head_dim linear_value_head_dim linear_num_key_heads linear_num_value_heads mamba_state_dim "
        "mamba_head_dim mamba_num_groups mamba_num_heads use_mamba_mem_eff_path is_hybrid_model mrope_section "
        "heterogeneous_block_specs hetereogenous_dist_checkpoint use_fused_weighted_squared_relu",
        _OTHER_ARCHITECTURES,
    ),
    **_all(
        "async_tensor_model_parallel_allreduce use_te_rng_tracker pipeline_model_parallel_comm_backend "
        "hierarchical_context_parallel_sizes barrier_with_L1_time log_max_attention_logit persist_layer_norm "
        "memory_efficient_layer_norm masked_softmax_fusion attention_softmax_in_fp32",
        UNREAD,
    ),
}
"""Of `trainer.megatron`."""

DDP: Refused = {
    "check_for_nan_in_grad": (
        OFF,
        "Megatron would raise where a step is skipped and counted (trainer.max_skipped_steps); leave it out",
    ),
    "grad_reduce_in_fp32": (
        (True,),
        "gradients would be summed over micro-batches and ranks in 16 bits, and depend on how a step is split; leave "
        "it out",
    ),
    "reduce_scatter_with_fp32_accumulation": (
        OFF,
        "gradients are sent and summed in float32 as they are; leave it out",
    ),
    "num_distributed_optimizer_instances": ((1,), "the process groups for it are not made; leave it out"),
    "align_param_gather": (
        OFF,
        "it leaves the gathering to a schedule that is not used, and nothing would overlap; leave it out",
    ),
    "nccl_ub": (
        OFF,
        "what NCCL has registered could not be given up when the engines take their turn; leave it out",
    ),
    "disable_symmetric_registration": ((), "it is read with nccl_ub alone, which is refused; leave it out"),
    "delay_wgrad_compute": (OFF, OVERLAPPED_EXPERTS),
    **_all("use_megatron_fsdp use_custom_fsdp", _NO_FSDP, *OFF),
    **_all(
        "data_parallel_sharding_strategy gradient_reduce_div_fusion suggested_communication_unit_size "
        "preserve_fp32_weights fsdp_double_buffer outer_dp_sharding_strategy fsdp_manual_registration",
        _NO_FSDP,
    ),
    **_all("fp8_param_gather reuse_grad_buf_for_mxfp8_param_ag keep_fp8_transpose_cache", EIGHT_BITS, *OFF),
}
"""Of `trainer.ddp`."""

OPTIMIZER: Refused = {
    **_all("decoupled_lr decoupled_min_lr", _OTHER_RATES, None),
    **_all(
        "sgd_momentum muon_momentum muon_split_qkv muon_use_nesterov muon_scale_mode muon_fp32_matmul_prec "
        "muon_num_ns_steps muon_tp_mode muon_extra_scale_factor",
        _ADAM,
    ),
    **_all("main_grads_dtype main_params_dtype exp_avg_dtype exp_avg_sq_dtype", _TORCH_TYPE),
    "hysteresis": ((1,), "passes that overflow are made again at once with half the factor of the loss; leave it out"),
    **_all("fp8_recipe", EIGHT_BITS, None),
    **_all("reuse_grad_buf_for_mxfp8_param_ag", EIGHT_BITS, *OFF),
    "overlap_param_gather_with_optimizer_step": (
        OFF,
        "use trainer.ddp.overlap_param_gather=true, which gathers during the next forward pass",
    ),
    **_all("log_num_zeros_in_grad use_torch_optimizer_for_cpu_offload", UNREAD, *OFF),
    **_all("barrier_with_L1_time", UNREAD),
}
"""Of `optim.megatron`."""
