"""Qwen3-Next: gated delta nets, gated attention in every fourth layer, a mixture of experts in each.

Source: transformers' configuration_qwen3_next.py and modeling_qwen3_next.py (5.12).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rlscale.families import gated_delta_net
from rlscale.families.decoder import GATED_ATTENTION, HEAD_NORMS, KEYS, OUTSIDE
from rlscale.families.expert_rules import EXPERTS, GATED_SHARED_EXPERT
from rlscale.families.family import Family, Key, Kind, Layers
from rlscale.families.known.qwen3 import TOKENIZERS
from rlscale.families.megatron_options import (
    gated_attention,
    gated_shared_expert,
    llama_like,
    normed_heads,
    softmax_experts,
    zero_centred_norms,
)
from rlscale.families.multi_token_prediction import MTP_MODULE
from rlscale.families.restrictions import (
    experts_in_every_layer,
    no_attention_bias,
    normalised_routing,
    readable_weights,
    silu_activation,
)
from rlscale.families.rotary import Rotary, known_scaling

_SHARE = 0.25


def _share_is_said_alike(config: Mapping[str, Any]) -> Iterator[str]:
    """SGLang reads partial_rotary_factor beside rope_parameters, transformers first within."""
    share, outside = Rotary.of(config).share, config.get("partial_rotary_factor", _SHARE)
    if share != outside:
        yield f"partial_rotary_factor={outside} and rope_parameters.partial_rotary_factor={share:g} must be the same"


FAMILY = Family(
    model_type="qwen3_next",
    keys={
        **KEYS,
        **gated_delta_net.KEYS,
        "intermediate_size": Key(Kind.size, 5632),
        "num_key_value_heads": Key(Kind.size, 2, defines=True),
        "head_dim": Key(Kind.size, 256, defines=True),
        "attention_bias": Key(Kind.flag, False, defines=True),
        "num_experts": Key(Kind.size, 512, defines=True, most=10_000),
        "num_local_experts": Key(Kind.size, most=10_000),
        "num_experts_per_tok": Key(Kind.size, 10, defines=True),
        "moe_intermediate_size": Key(Kind.size, 512, defines=True),
        "shared_expert_intermediate_size": Key(Kind.size, 512, defines=True),
        "norm_topk_prob": Key(Kind.flag, True, defines=True),
        "decoder_sparse_step": Key(Kind.count, 1, defines=True),
        "mlp_only_layers": Key(Kind.numbers, (), null=True, defines=True),
        "output_router_logits": Key(Kind.flag, False),
        "router_aux_loss_coef": Key(Kind.number, 0.001),
    },
    rules=(
        *OUTSIDE,
        *gated_delta_net.RULES,
        *(replace(rule, layers=Layers.full) for rule in (*GATED_ATTENTION, *HEAD_NORMS)),
        *EXPERTS,
        *GATED_SHARED_EXPERT,
    ),
    language_class="Qwen3NextForCausalLM",
    value_class="Qwen3NextForTokenClassification",
    sglang_module="qwen3_next",
    engine_alone={"attn_output_gate": True, "output_gate_type": None},
    engine_reads=("full_attention_interval", "partial_rotary_factor", "rope_theta"),
    restrictions=(
        readable_weights,
        known_scaling,
        _share_is_said_alike,
        gated_delta_net.layers_alike,
        gated_delta_net.heads_of_values_divide,
        no_attention_bias,
        silu_activation,
        experts_in_every_layer,
        normalised_routing,
    ),
    megatron=(
        llama_like,
        normed_heads,
        zero_centred_norms,
        gated_attention,
        gated_delta_net.gated_delta_net,
        softmax_experts,
        gated_shared_expert,
    ),
    experts=True,
    tokenizer_classes=TOKENIZERS,
    rotary_share=_SHARE,
    delta_net=True,
    kept="mtp.",
    mtp=MTP_MODULE,
)
