"""GLM-4.5, 4.6 and 4.7. Source: transformers' configuration_glm4_moe.py and modeling_glm4_moe.py (5.12)."""

from __future__ import annotations

from dataclasses import replace

from rlscale.families.decoder import ATTENTION, HEAD_NORMS, KEYS, OUTSIDE, QKV_BIAS
from rlscale.families.expert_rules import BEHIND_DENSE, keys_behind_dense
from rlscale.families.family import Family, Key, Kind
from rlscale.families.megatron_options import llama_like, optional_head_norms, optional_qkv_bias, sigmoid_experts
from rlscale.families.multi_token_prediction import MTP
from rlscale.families.restrictions import (
    choosable_groups,
    normalised_routing,
    readable_weights,
    shared_experts,
    silu_activation,
)
from rlscale.families.rotary import known_scaling

FAMILY = Family(
    model_type="glm4_moe",
    keys={
        **KEYS,
        "intermediate_size": Key(Kind.size, 10_944, defines=True),
        "num_key_value_heads": Key(Kind.size, 8, defines=True),
        "head_dim": Key(Kind.size, defines=True),
        "rms_norm_eps": Key(Kind.fraction, 1e-5, defines=True),
        "max_position_embeddings": Key(Kind.size, 131_072),
        "attention_bias": Key(Kind.flag, False, defines=True),
        "use_qk_norm": Key(Kind.flag, False, defines=True),
        **keys_behind_dense(n_routed_experts=128, num_experts_per_tok=8, moe_intermediate_size=1408),
    },
    rules=(
        *OUTSIDE,
        *ATTENTION,
        replace(QKV_BIAS, when="attention_bias"),
        *(replace(rule, when="use_qk_norm") for rule in HEAD_NORMS),
        *BEHIND_DENSE,
    ),
    language_class="Glm4MoeForCausalLM",
    value_class=None,
    sglang_module="glm4_moe",
    restrictions=(
        readable_weights,
        known_scaling,
        silu_activation,
        normalised_routing,
        shared_experts,
        choosable_groups,
    ),
    megatron=(llama_like, optional_qkv_bias, optional_head_norms, sigmoid_experts),
    experts=True,
    rotary_share=0.5,
    mtp=MTP,
)
