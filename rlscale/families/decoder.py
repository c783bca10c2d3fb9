"""What decoders that follow Llama have in common: keys of their config.json, and rules of their parameters."""

from __future__ import annotations

from dataclasses import replace

from rlscale.families.family import HF, LAYER, Form, HFTensor, Key, Kind, Rule

KEYS = {
    "vocab_size": Key(Kind.size, needed=True, defines=True),
    "hidden_size": Key(Kind.size, needed=True, defines=True),
    "num_hidden_layers": Key(Kind.size, needed=True, defines=True, most=10_000),
    "num_attention_heads": Key(Kind.size, needed=True, defines=True),
    "hidden_act": Key(Kind.text, "silu", defines=True),
    "rms_norm_eps": Key(Kind.fraction, 1e-6, defines=True),
    "rope_theta": Key(Kind.positive, 10_000.0, null=True, defines=True),
    "rope_parameters": Key(Kind.mapping, null=True),
    "rope_scaling": Key(Kind.mapping, null=True),
    "partial_rotary_factor": Key(Kind.positive, null=True),
    "tie_word_embeddings": Key(Kind.flag, False, defines=True),
    "max_position_embeddings": Key(Kind.size, 32_768),
    "initializer_range": Key(Kind.number, 0.02),
    "attention_dropout": Key(Kind.number, 0.0),
    "use_cache": Key(Kind.flag, True),
    "bos_token_id": Key(Kind.token, null=True),
    "eos_token_id": Key(Kind.tokens, null=True),
    "pad_token_id": Key(Kind.token, null=True),
}
"""The keys that every family has."""

WINDOWS = {
    "use_sliding_window": Key(Kind.flag, False, defines=True),
    "sliding_window": Key(Kind.count, 4096, null=True, null_is_none=True),
    "max_window_layers": Key(Kind.count, 28),
}
"""The keys of families whose layers can see a window only, see `reach`."""

OUTSIDE = (
    Rule(
        "embedding.word_embeddings.weight",
        (HFTensor("model.embed_tokens.weight", ("vocabulary", "hidden")),),
        Form.vocabulary,
        0,
    ),
    Rule("decoder.final_layernorm.weight", (HFTensor("model.norm.weight", ("hidden",)),)),
)
"""The parameters outside the layers, the head left out."""

ATTENTION = (
    Rule(
        LAYER + "self_attention.linear_qkv.layer_norm_weight", (HFTensor(HF + "input_layernorm.weight", ("hidden",)),)
    ),
    Rule(
        LAYER + "self_attention.linear_qkv.weight",
        (
            HFTensor(HF + "self_attn.q_proj.weight", ("query", "hidden")),
            HFTensor(HF + "self_attn.k_proj.weight", ("key", "hidden")),
            HFTensor(HF + "self_attn.v_proj.weight", ("key", "hidden")),
        ),
        Form.qkv,
        0,
    ),
    Rule(
        LAYER + "self_attention.linear_proj.weight",
        (HFTensor(HF + "self_attn.o_proj.weight", ("hidden", "query")),),
        split=1,
    ),
)
"""The parameters of a layer's attention, without biases."""

GATED_ATTENTION = tuple(
    replace(
        rule,
        form=Form.gated_qkv,
        hf=(HFTensor(HF + "self_attn.q_proj.weight", ("query_and_gate", "hidden")), *rule.hf[1:]),
    )
    if rule.form is Form.qkv
    else rule
    for rule in ATTENTION
)
"""The parameters of a layer's attention whose output is gated; the gate comes out of the query projection."""

QKV_BIAS = Rule(
    LAYER + "self_attention.linear_qkv.bias",
    (
        HFTensor(HF + "self_attn.q_proj.bias", ("query",)),
        HFTensor(HF + "self_attn.k_proj.bias", ("key",)),
        HFTensor(HF + "self_attn.v_proj.bias", ("key",)),
    ),
    Form.qkv,
    0,
)
"""Biases of the query, key and value projections."""

HEAD_NORMS = (
    Rule(LAYER + "self_attention.q_layernorm.weight", (HFTensor(HF + "self_attn.q_norm.weight", ("head",)),)),
    Rule(LAYER + "self_attention.k_layernorm.weight", (HFTensor(HF + "self_attn.k_norm.weight", ("head",)),)),
)
"""Norms over each query and key head."""


def gated_mlp(megatron: str, hf: str, inner: str, number: str = "") -> tuple[Rule, Rule]:
    """The matrices of a gated MLP below these names; `inner`: the size between them, `number`: of one among several."""
    gate_and_up = (HFTensor(f"{hf}{name}_proj.weight", (inner, "hidden")) for name in ("gate", "up"))
    down = HFTensor(f"{hf}down_proj.weight", ("hidden", inner))
    return (
        Rule(f"{megatron}linear_fc1.weight{number}", tuple(gate_and_up), Form.gate_up, 0),
        Rule(f"{megatron}linear_fc2.weight{number}", (down,), split=1),
    )


MLP = (
    Rule(LAYER + "mlp.linear_fc1.layer_norm_weight", (HFTensor(HF + "post_attention_layernorm.weight", ("hidden",)),)),
    *gated_mlp(LAYER + "mlp.", HF + "mlp.", "inner"),
)
"""The parameters of a layer's gated MLP."""
