"""DeepSeek-V3, V3.1, R1, and Kimi-K2. Source: transformers' configuration_deepseek_v3.py and modeling_deepseek_v3.py
(5.12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.families import latent_attention
from rlscale.families.decoder import KEYS, OUTSIDE
from rlscale.families.expert_rules import BEHIND_DENSE, keys_behind_dense
from rlscale.families.family import Family, Key, Kind
from rlscale.families.latent_attention import scaling_of_latent_attention, whole_latent_attention
from rlscale.families.megatron_options import llama_like, sigmoid_experts
from rlscale.families.multi_token_prediction import MTP
from rlscale.families.restrictions import (
    choosable_groups,
    no_attention_bias,
    normalised_routing,
    readable_weights,
    shared_experts,
    silu_activation,
)
from rlscale.families.rotary import known_scaling

_ROUTING = {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1}

ENGINE_READS = tuple(_ROUTING)
"""Keys that SGLang reads and transformers does not, which then leaves them out of folders that it writes."""


def routing_is_said(config: Mapping[str, Any]) -> Iterator[str]:
    """Without these SGLang would choose other experts than transformers and the trainer, or none."""
    for key, value in _ROUTING.items():
        if config.get(key) != value:
            given = f"{key} is missing" if config.get(key) is None else f"{key}={config[key]} is not supported"
            yield f"{given}; SGLang reads it, and it must be {value}"


RULES = (*OUTSIDE, *latent_attention.RULES, *BEHIND_DENSE)
RESTRICTIONS = (
    readable_weights,
    known_scaling,
    scaling_of_latent_attention,
    whole_latent_attention,
    no_attention_bias,
    silu_activation,
    normalised_routing,
    shared_experts,
    choosable_groups,
)
MEGATRON = (llama_like, sigmoid_experts, latent_attention.latent_attention)
"""What all families with latent attention and experts chosen by a sigmoid have."""

ENGINE_ALONE = {"llama_4_scaling": None, "swiglu_limit": None, "num_hash_layers": 0}
"""See `Family.engine_alone`."""

FAMILY = Family(
    model_type="deepseek_v3",
    keys={
        **KEYS,
        **latent_attention.KEYS,
        "head_dim": Key(Kind.size, null=True),
        "intermediate_size": Key(Kind.size, 18_432, defines=True),
        "num_key_value_heads": Key(Kind.size, 128, null=True, defines=True),
        "max_position_embeddings": Key(Kind.size, 4096),
        **keys_behind_dense(
            n_routed_experts=256,
            num_experts_per_tok=8,
            moe_intermediate_size=2048,
            first_k_dense_replace=3,
            routed_scaling_factor=2.5,
            n_group=8,
            topk_group=4,
        ),
        "topk_method": Key(Kind.text, null=True),
        "scoring_func": Key(Kind.text, null=True),
        "moe_layer_freq": Key(Kind.size, null=True),
        "pretraining_tp": Key(Kind.size, 1, null=True),
    },
    rules=RULES,
    language_class="DeepseekV3ForCausalLM",
    value_class="DeepseekV3ForTokenClassification",
    sglang_module="deepseek_v2",
    engine_reads=ENGINE_READS,
    engine_alone=ENGINE_ALONE,
    other_names=("kimi_k2",),
    restrictions=(*RESTRICTIONS, routing_is_said),
    megatron=MEGATRON,
    experts=True,
    latent=True,
    mtp=MTP,
)
