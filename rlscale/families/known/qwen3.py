"""Qwen3, dense. Source: transformers' configuration_qwen3.py and modeling_qwen3.py (5.12)."""

from __future__ import annotations

from rlscale.families.family import HF, LAYER, Family, Form, HFTensor, Key, Kind, Rule
from rlscale.families.megatron_options import llama_like, normed_heads
from rlscale.families.restrictions import (
    full_attention,
    full_precision,
    no_attention_bias,
    plain_rotary,
    silu_activation,
)

COMMON = {
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
    "attention_bias": Key(Kind.flag, False, defines=True),
    "use_sliding_window": Key(Kind.flag, False, defines=True),
    "sliding_window": Key(Kind.count, null=True),
    "max_window_layers": Key(Kind.count, 28),
    "max_position_embeddings": Key(Kind.size, 32_768),
    "initializer_range": Key(Kind.number, 0.02),
    "attention_dropout": Key(Kind.number, 0.0),
    "use_cache": Key(Kind.flag, True),
    "bos_token_id": Key(Kind.token, null=True),
    "eos_token_id": Key(Kind.tokens, null=True),
    "pad_token_id": Key(Kind.token, null=True),
}
"""The keys that Qwen3 and its mixture of experts share."""

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
    Rule(LAYER + "self_attention.q_layernorm.weight", (HFTensor(HF + "self_attn.q_norm.weight", ("head",)),)),
    Rule(LAYER + "self_attention.k_layernorm.weight", (HFTensor(HF + "self_attn.k_norm.weight", ("head",)),)),
    Rule(
        LAYER + "self_attention.linear_proj.weight",
        (HFTensor(HF + "self_attn.o_proj.weight", ("hidden", "query")),),
        split=1,
    ),
)
"""The parameters of a layer's attention."""

RESTRICTIONS = (full_precision, plain_rotary, full_attention, no_attention_bias, silu_activation)
"""What neither Qwen3 nor its mixture of experts may say."""

MEGATRON = (llama_like, normed_heads)
"""Megatron's options of what Qwen3 and its mixture of experts have in common."""

TOKENIZERS = {
    "Qwen2Tokenizer": "Qwen2Tokenizer",
    "Qwen2TokenizerFast": "Qwen2Tokenizer",
    "PreTrainedTokenizerFast": "TokenizersBackend",
    "TokenizersBackend": "TokenizersBackend",
}
"""What AutoTokenizer makes of the tokenizers that folders of Qwen3 and its mixture of experts name."""

_MLP = (
    Rule(LAYER + "mlp.linear_fc1.layer_norm_weight", (HFTensor(HF + "post_attention_layernorm.weight", ("hidden",)),)),
    Rule(
        LAYER + "mlp.linear_fc1.weight",
        (
            HFTensor(HF + "mlp.gate_proj.weight", ("inner", "hidden")),
            HFTensor(HF + "mlp.up_proj.weight", ("inner", "hidden")),
        ),
        Form.gate_up,
        0,
    ),
    Rule(LAYER + "mlp.linear_fc2.weight", (HFTensor(HF + "mlp.down_proj.weight", ("hidden", "inner")),), split=1),
)

FAMILY = Family(
    model_type="qwen3",
    keys={
        **COMMON,
        "intermediate_size": Key(Kind.size, needed=True, defines=True),
        "num_key_value_heads": Key(Kind.size, 32, null=True, defines=True),
        "head_dim": Key(Kind.size, defines=True),
        "layer_types": Key(Kind.texts, null=True),
    },
    rules=(*OUTSIDE, *ATTENTION, *_MLP),
    language_class="Qwen3ForCausalLM",
    value_class="Qwen3ForTokenClassification",
    sglang_module="qwen3",
    restrictions=RESTRICTIONS,
    megatron=MEGATRON,
    tokenizer_classes=TOKENIZERS,
    own_head_dim=128,
)
