"""Rules of the parameters of layers with experts."""

from __future__ import annotations

from dataclasses import replace

from rlscale.families.decoder import MLP
from rlscale.families.family import HF, LAYER, Form, HFTensor, Layers, Rule

_EXPERT = HF + "mlp.experts.{expert}."

EXPERTS = (
    Rule(LAYER + "pre_mlp_layernorm.weight", (HFTensor(HF + "post_attention_layernorm.weight", ("hidden",)),)),
    Rule(LAYER + "mlp.router.weight", (HFTensor(HF + "mlp.gate.weight", ("experts", "hidden")),)),
    Rule(
        LAYER + "mlp.experts.linear_fc1.weight{expert}",
        (
            HFTensor(_EXPERT + "gate_proj.weight", ("expert_inner", "hidden")),
            HFTensor(_EXPERT + "up_proj.weight", ("expert_inner", "hidden")),
        ),
        Form.gate_up,
        0,
    ),
    Rule(
        LAYER + "mlp.experts.linear_fc2.weight{expert}",
        (HFTensor(_EXPERT + "down_proj.weight", ("hidden", "expert_inner")),),
        split=1,
    ),
)
"""Router and experts of a layer, and the norm before them."""

_SHARED = HF + "mlp.shared_experts."

SHARED_EXPERTS = (
    Rule(
        LAYER + "mlp.shared_experts.linear_fc1.weight",
        (
            HFTensor(_SHARED + "gate_proj.weight", ("shared_inner", "hidden")),
            HFTensor(_SHARED + "up_proj.weight", ("shared_inner", "hidden")),
        ),
        Form.gate_up,
        0,
    ),
    Rule(
        LAYER + "mlp.shared_experts.linear_fc2.weight",
        (HFTensor(_SHARED + "down_proj.weight", ("hidden", "shared_inner")),),
        split=1,
    ),
)
"""Experts that every token visits, as one MLP."""

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
