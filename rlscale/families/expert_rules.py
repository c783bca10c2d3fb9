"""Rules of the parameters of layers with experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlscale.families.decoder import MLP, gated_mlp
from rlscale.families.family import HF, LAYER, HFTensor, Key, Kind, Layers, Rule

EXPERTS = (
    Rule(LAYER + "pre_mlp_layernorm.weight", (HFTensor(HF + "post_attention_layernorm.weight", ("hidden",)),)),
    Rule(LAYER + "mlp.router.weight", (HFTensor(HF + "mlp.gate.weight", ("experts", "hidden")),)),
    *gated_mlp(LAYER + "mlp.experts.", HF + "mlp.experts.{expert}.", "expert_inner", "{expert}"),
)
"""Router and experts of a layer, and the norm before them."""

SHARED_EXPERTS = gated_mlp(LAYER + "mlp.shared_experts.", HF + "mlp.shared_experts.", "shared_inner")
"""Experts that every token visits, as one MLP."""

GATED_SHARED_EXPERT = (
    *gated_mlp(LAYER + "mlp.shared_experts.", HF + "mlp.shared_expert.", "shared_inner"),
    Rule(
        LAYER + "mlp.shared_experts.gate_weight",
        (HFTensor(HF + "mlp.shared_expert_gate.weight", ("one", "hidden")),),
    ),
)
"""An expert that every token visits, and the gate of what it gives."""

CHOICE_BIAS = Rule(
    LAYER + "mlp.router.expert_bias",
    (HFTensor(HF + "mlp.gate.e_score_correction_bias", ("experts",)),),
    frozen=True,
)
"""What is added to the experts' scores where they are chosen."""

_KEYS = {
    "n_routed_experts": Key(Kind.size, defines=True, most=10_000),
    "num_local_experts": Key(Kind.size, most=10_000),
    "n_shared_experts": Key(Kind.count, 1, defines=True),
    "num_experts_per_tok": Key(Kind.size, defines=True),
    "moe_intermediate_size": Key(Kind.size, defines=True),
    "first_k_dense_replace": Key(Kind.count, 1, defines=True),
    "norm_topk_prob": Key(Kind.flag, True, defines=True),
    "routed_scaling_factor": Key(Kind.positive, 1.0, defines=True),
    "n_group": Key(Kind.size, 1, defines=True),
    "topk_group": Key(Kind.size, 1, defines=True),
    "num_nextn_predict_layers": Key(Kind.count, 0, null=True),
}


def keys_behind_dense(**defaults: Any) -> dict[str, Key]:
    """The keys of such a model, with what transformers takes for those of them that a family has its own default of."""
    return {name: replace(key, default=defaults.get(name, key.default)) for name, key in _KEYS.items()}


BEHIND_DENSE = (
    *(replace(rule, layers=Layers.dense) for rule in MLP),
    *(replace(rule, layers=Layers.sparse) for rule in (*EXPERTS, *SHARED_EXPERTS, CHOICE_BIAS)),
)
"""The feed-forward part of a model of DeepSeek's kind: dense layers first, experts in the others."""
