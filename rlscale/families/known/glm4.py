"""GLM-4 of 2025 (0414: 9B, 32B, Z1). Source: transformers' configuration_glm4.py and modeling_glm4.py (5.12)."""

from __future__ import annotations

from dataclasses import replace

from rlscale.families.decoder import ATTENTION, KEYS, OUTSIDE, QKV_BIAS
from rlscale.families.family import HF, LAYER, Family, Form, HFTensor, Key, Kind, Rule
from rlscale.families.megatron_options import interleaved_rotary, llama_like, optional_qkv_bias
from rlscale.families.restrictions import readable_weights, silu_activation
from rlscale.families.rotary import known_scaling

_NORMS = (
    Rule(
        LAYER + "self_attention.linear_proj.post_layernorm.weight",
        (HFTensor(HF + "post_self_attn_layernorm.weight", ("hidden",)),),
    ),
    Rule(LAYER + "mlp.linear_fc2.post_layernorm.weight", (HFTensor(HF + "post_mlp_layernorm.weight", ("hidden",)),)),
)

_MLP = (
    Rule(LAYER + "mlp.linear_fc1.layer_norm_weight", (HFTensor(HF + "post_attention_layernorm.weight", ("hidden",)),)),
    Rule(
        LAYER + "mlp.linear_fc1.weight",
        (HFTensor(HF + "mlp.gate_up_proj.weight", ("gate_and_up", "hidden")),),
        Form.gate_up,
        0,
    ),
    Rule(LAYER + "mlp.linear_fc2.weight", (HFTensor(HF + "mlp.down_proj.weight", ("hidden", "inner")),), split=1),
)

FAMILY = Family(
    model_type="glm4",
    keys={
        **KEYS,
        "intermediate_size": Key(Kind.size, 13696, defines=True),
        "num_key_value_heads": Key(Kind.size, 2, defines=True),
        "head_dim": Key(Kind.size, defines=True),
        "rms_norm_eps": Key(Kind.fraction, 1.5625e-07, defines=True),
        "max_position_embeddings": Key(Kind.size, 131_072),
        "attention_bias": Key(Kind.flag, True, defines=True),
    },
    rules=(*OUTSIDE, *ATTENTION, replace(QKV_BIAS, when="attention_bias"), *_MLP, *_NORMS),
    language_class="Glm4ForCausalLM",
    value_class="Glm4ForTokenClassification",
    sglang_module="glm4",
    engine_alone={"dual_chunk_attention_config": None},
    restrictions=(readable_weights, known_scaling, silu_activation),
    megatron=(llama_like, optional_qkv_bias, interleaved_rotary),
    adapters=True,
    own_head_dim=128,
    rotary_share=0.5,
    norms_behind=True,
)
