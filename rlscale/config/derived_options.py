"""Options of Megatron, SGLang and the router that rlscale derives, and the key that sets each instead."""

from __future__ import annotations

_ITSELF = "rlscale itself"
_FROM_MODEL = "the model's Hugging Face config (model.path)"

_MODEL_PARALLEL = {
    "tensor_model_parallel_size": "parallel.tensor",
    "pipeline_model_parallel_size": "parallel.pipeline",
    "virtual_pipeline_model_parallel_size": "parallel.virtual_pipeline",
    "sequence_parallel": "parallel.sequence",
    "context_parallel_size": "parallel.context",
    "expert_model_parallel_size": "parallel.expert",
    "expert_tensor_parallel_size": "parallel.expert_tensor",
    "fp16": "model.dtype",
    "bf16": "model.dtype",
    "params_dtype": "model.dtype",
    "pipeline_dtype": "model.dtype",
    "autocast_dtype": "model.dtype",
    "recompute_granularity": "trainer.recompute",
    "deterministic_mode": "trainer.deterministic",
}
_ARCHITECTURE = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "num_moe_experts",
    "moe_ffn_hidden_size",
    "moe_router_topk",
    "normalization",
    "layernorm_epsilon",
    "gated_linear_unit",
    "activation_func",
    "add_bias_linear",
    "add_qkv_bias",
    "qk_layernorm",
)
_MEGATRON_ITSELF = (
    "calculate_per_token_loss",
    "use_cpu_initialization",
    "perform_initialization",
    "variable_seq_lengths",
    "timers",
    "finalize_model_grads_func",
    "grad_scale_func",
    "no_sync_func",
    "grad_sync_func",
    "param_sync_func",
)

DERIVED: dict[str, dict[str, str]] = {
    "transformer": {
        **_MODEL_PARALLEL,
        **dict.fromkeys(_ARCHITECTURE, _FROM_MODEL),
        **dict.fromkeys(_MEGATRON_ITSELF, _ITSELF),
    },
    "ddp": {
        "use_distributed_optimizer": "trainer.distributed_optimizer",
        "average_in_collective": _ITSELF,
    },
    "optimizer": {
        "optimizer": _ITSELF,
        "lr": "optim.lr",
        "min_lr": "optim.min_lr",
        "weight_decay": "optim.weight_decay",
        "adam_beta1": "optim.beta1",
        "adam_beta2": "optim.beta2",
        "adam_eps": "optim.eps",
        "clip_grad": "optim.clip_grad",
        "fp16": "model.dtype",
        "bf16": "model.dtype",
        "params_dtype": "model.dtype",
        "use_distributed_optimizer": "trainer.distributed_optimizer",
        "timers": _ITSELF,
    },
    "server": {
        "model_path": "model.path",
        "tokenizer_path": "model.tokenizer",
        "chat_template": "model.chat_template",
        "dtype": "model.dtype",
        "device": "cluster.device",
        "host": "cluster.host",
        "port": f"{_ITSELF} (a free one)",
        "nccl_port": f"{_ITSELF} (a free one)",
        "api_key": f"{_ITSELF} (each run has its own)",
        "admin_api_key": f"{_ITSELF} (each run has its own)",
        "tp_size": "rollout.gpus_per_engine",
        "pp_size": "rollout.gpus_per_engine",
        "base_gpu_id": "the cluster group",
        "gpu_id_step": "the cluster group",
        "nnodes": "the cluster group",
        "node_rank": "the cluster group",
        "dist_init_addr": "the cluster group",
        "enable_memory_saver": "cluster.placement",
        "random_seed": "run.seed",
    },
    "router": {
        "host": "cluster.host",
        "port": f"{_ITSELF} (a free one)",
        "prometheus_host": "cluster.host",
        "prometheus_port": f"{_ITSELF} (a free one)",
        "api_key": f"{_ITSELF} (each run has its own)",
        "worker_urls": "rollout.engines, or rollout.engine_urls for engines that you started",
        "log_dir": "run.output",
    },
}
"""What sets the option, by kind and name."""
