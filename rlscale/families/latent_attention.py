"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys, rules and options of families that have it.

Queries and keys are made of compressed forms with a norm each. Its epsilon is `rms_norm_eps`, as in SGLang;
transformers has 1e-6 there, whatever the config says. A key is a part for each head without positions, and a
part with rotary positions that all heads share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.families.family import HF, LAYER, HFTensor, Key, Kind, Rule
from rlscale.families.rotary import Rotary

KEYS = {
    "q_lora_rank": Key(Kind.size, 1536, null=True, null_is_none=True, defines=True),
    "kv_lora_rank": Key(Kind.size, 512, defines=True),
    "qk_nope_head_dim": Key(Kind.size, 128, defines=True),
    "qk_rope_head_dim": Key(Kind.size, 64, defines=True),
    "v_head_dim": Key(Kind.size, 128, defines=True),
    "rope_interleave": Key(Kind.flag, True, defines=True),
    "attention_bias": Key(Kind.flag, False, defines=True),
}
"""The keys that say how large its parts are."""

_ATTENTION, _HF = LAYER + "self_attention.", HF + "self_attn."
_QUERY_DOWN = _ATTENTION + "linear_q_down_proj.weight"

RULES = (
    Rule(LAYER + "input_layernorm.weight", (HFTensor(HF + "input_layernorm.weight", ("hidden",)),)),
    Rule(_QUERY_DOWN, (HFTensor(_HF + "q_a_proj.weight", ("query_rank", "hidden")),)),
    Rule(_ATTENTION + "linear_q_up_proj.layer_norm_weight", (HFTensor(_HF + "q_a_layernorm.weight", ("query_rank",)),)),
    Rule(
        _ATTENTION + "linear_q_up_proj.weight",
        (HFTensor(_HF + "q_b_proj.weight", ("query", "query_rank")),),
        split=0,
    ),
    Rule(
        _ATTENTION + "linear_kv_down_proj.weight",
        (HFTensor(_HF + "kv_a_proj_with_mqa.weight", ("key_rank_and_rotary", "hidden")),),
        beside=_QUERY_DOWN,
    ),
    Rule(_ATTENTION + "linear_kv_up_proj.layer_norm_weight", (HFTensor(_HF + "kv_a_layernorm.weight", ("key_rank",)),)),
    Rule(
        _ATTENTION + "linear_kv_up_proj.weight",
        (HFTensor(_HF + "kv_b_proj.weight", ("key_and_value", "key_rank")),),
        split=0,
    ),
    Rule(_ATTENTION + "linear_proj.weight", (HFTensor(_HF + "o_proj.weight", ("hidden", "attended")),), split=1),
)
"""The parameters of a layer's attention."""


def latent_attention(config: Mapping[str, Any]) -> dict[str, Any]:
    """Megatron's options. YaRN's frequencies are the trainer's own; its weight of the softmax is Megatron's."""
    scaling = Rotary.of(config).scaling
    return {
        "multi_latent_attention": True,
        "kv_channels": config["qk_head_dim"],
        "q_lora_rank": config["q_lora_rank"],
        "kv_lora_rank": config["kv_lora_rank"],
        "qk_head_dim": config["qk_nope_head_dim"],
        "qk_pos_emb_head_dim": config["qk_rope_head_dim"],
        "v_head_dim": config["v_head_dim"],
        "qk_layernorm": True,
        "rope_type": "rope",
        "rotary_scaling_factor": float(scaling.get("factor", 1.0)),
        "mscale_all_dim": float(scaling.get("mscale_all_dim", 0.0)),
    }


def scale_of_scores(config: Mapping[str, Any]) -> float:
    """What Megatron multiplies the scores of a completed config's attention with, in every bit."""
    options = latent_attention(config)
    factor, weight = options["rotary_scaling_factor"], options["mscale_all_dim"]
    magnitude = 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
    return float(magnitude * magnitude / math.sqrt(options["kv_channels"]))


def whole_latent_attention(config: Mapping[str, Any]) -> Iterator[str]:
    """Attention as DeepSeek's models have it; of its options, those that are tried."""
    family = config["model_type"]
    if config.get("q_lora_rank") is None:
        yield f"q_lora_rank=null is not supported for {family}; only queries that are compressed"
    if not config["rope_interleave"]:
        yield f"rope_interleave=false is not supported for {family}"
    if config["num_key_value_heads"] != config["num_attention_heads"]:
        yield (
            f"num_key_value_heads={config['num_key_value_heads']} is not supported for {family}; must be "
            f"num_attention_heads={config['num_attention_heads']}"
        )


def scaling_of_latent_attention(config: Mapping[str, Any]) -> Iterator[str]:
    """YaRN whose weights of queries and keys cancel out, or none: what SGLang makes of every other is YaRN, too."""
    rotary, family = Rotary.of(config), config["model_type"]
    if rotary.kind != "yarn" and not rotary.is_plain:
        yield f"rope scaling of type {rotary.kind} is not supported for {family}; only default, dynamic, yarn"
    elif rotary.share != 1:
        yield f"partial_rotary_factor={rotary.share:g} is not supported for {family}"
    elif rotary.magnitude != 1:
        yield f"rope_parameters.mscale and mscale_all_dim must be given, and be the same, for {family}"
