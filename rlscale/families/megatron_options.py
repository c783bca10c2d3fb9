"""What Megatron's TransformerConfig is told of a model: plain data, for a family to put together.

Options of the layout, of types and of kernels are not the model's, and not here. A function is named by a text (the
activation), which the trainer looks up in `torch.nn.functional`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.families.family import dense_layers
from rlscale.families.rotary import Rotary

Config = Mapping[str, Any]


def llama_like(config: Config) -> dict[str, Any]:
    """A decoder with grouped-query attention, RMSNorm and a gated MLP without biases, from a completed config.

    What YaRN multiplies queries and keys with is in the softmax's scale: their product has it twice.
    """
    rotary = Rotary.of(config)
    options = {} if rotary.magnitude == 1 else {"softmax_scale": rotary.magnitude**2 / config["head_dim"] ** 0.5}
    return {
        **options,
        "num_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "ffn_hidden_size": config["intermediate_size"],
        "num_attention_heads": config["num_attention_heads"],
        "num_query_groups": config["num_key_value_heads"],
        "kv_channels": config["head_dim"],
        "layernorm_epsilon": config["rms_norm_eps"],
        "normalization": "RMSNorm",
        "activation_func": "silu",
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "add_qkv_bias": False,
        # Never those of pretraining: what is dropped differs from pass to pass, and then the ratio is not 1 where the
        # weights are the same.
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }


def normed_heads(_: Config) -> dict[str, Any]:
    """A norm over each query and key head."""
    return {"qk_layernorm": True}


def optional_head_norms(config: Config) -> dict[str, Any]:
    """A norm over each query and key head where the config says so."""
    return {"qk_layernorm": bool(config["use_qk_norm"])}


def qkv_bias(_: Config) -> dict[str, Any]:
    """Biases of the query, key and value projections."""
    return {"add_qkv_bias": True}


def optional_qkv_bias(config: Config) -> dict[str, Any]:
    """Biases of the query, key and value projections where the config says so."""
    return {"add_qkv_bias": bool(config["attention_bias"])}


def interleaved_rotary(_: Config) -> dict[str, Any]:
    """Rotary positions turn pairs of neighbours instead of halves."""
    return {"rotary_interleaved": True}


def zero_centred_norms(_: Config) -> dict[str, Any]:
    """What a norm multiplies with is its weight and 1."""
    return {"layernorm_zero_centered_gamma": True}


def gated_attention(_: Config) -> dict[str, Any]:
    """What attention gives is multiplied with a sigmoid of a projection of its input."""
    return {"attention_output_gate": True}


def gated_shared_expert(config: Config) -> dict[str, Any]:
    """An expert that every token visits, with a gate."""
    return {
        "moe_shared_expert_intermediate_size": config["shared_expert_intermediate_size"],
        "moe_shared_expert_gate": True,
    }


def softmax_experts(config: Config) -> dict[str, Any]:
    """Experts in every layer, chosen by a softmax whose probabilities are normalised over the chosen ones."""
    return {
        "num_moe_experts": config["num_experts"],
        "moe_router_topk": config["num_experts_per_tok"],
        "moe_ffn_hidden_size": config["moe_intermediate_size"],
        "moe_router_score_function": "softmax",
        "moe_router_pre_softmax": False,  # softmax over the chosen experts = their normalised probabilities
        "moe_router_load_balancing_type": "none",  # reinforcement learning adds no balancing loss unless asked
        "moe_aux_loss_coeff": 0.0,
        "moe_router_dtype": "fp32",
        "moe_grouped_gemm": True,
        "moe_permute_fusion": False,
    }


def sigmoid_experts(config: Config) -> dict[str, Any]:
    """Experts of DeepSeek's kind behind the first dense layers, with shared ones that every token visits.

    A sigmoid scores them, a bias that nothing trains is added where they are chosen, groups of them are chosen first.
    """
    groups = config["n_group"] if config["n_group"] > 1 else None
    dense = dense_layers(config)
    return {
        **softmax_experts(config),
        "moe_layer_freq": [0] * dense + [1] * (config["num_hidden_layers"] - dense),
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_bias_update_rate": 0.0,  # pretraining balances by it
        "moe_router_topk_scaling_factor": float(config["routed_scaling_factor"]),
        "moe_router_num_groups": groups,
        "moe_router_group_topk": config["topk_group"] if groups else None,
        "moe_shared_expert_intermediate_size": config["n_shared_experts"] * config["moe_intermediate_size"] or None,
    }
