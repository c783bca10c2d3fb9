"""Rules of the parameters of layers with experts."""

from __future__ import annotations

from dataclasses import replace

from rlscale.families.decoder import MLP, gated_mlp
from rlscale.families.family import HF, LAYER, HFTensor, Layers, Rule

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

BEHIND_DENSE = (
    *(replace(rule, layers=Layers.dense) for rule in MLP),
    *(replace(rule, layers=Layers.sparse) for rule in (*EXPERTS, *SHARED_EXPERTS, CHOICE_BIAS)),
)
"""The feed-forward part of a model of DeepSeek's kind: dense layers first, experts in the others."""
