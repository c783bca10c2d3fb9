"""Qwen2 and Qwen2.5. Source: transformers' configuration_qwen2.py and modeling_qwen2.py (5.12)."""

from __future__ import annotations

from rlscale.families.decoder import ATTENTION, KEYS, MLP, OUTSIDE, QKV_BIAS, WINDOWS
from rlscale.families.family import Family, Key, Kind
from rlscale.families.megatron_options import llama_like, qkv_bias
from rlscale.families.reach import full_or_windowed, of_later_windows
from rlscale.families.restrictions import readable_weights, rotary_of_whole_heads, silu_activation
from rlscale.families.rotary import known_scaling

FAMILY = Family(
    model_type="qwen2",
    keys={
        **KEYS,
        **WINDOWS,
        "intermediate_size": Key(Kind.size, needed=True, defines=True),
        "num_key_value_heads": Key(Kind.size, 32, null=True, defines=True),
        "head_dim": Key(Kind.size, defines=True),
        "layer_types": Key(Kind.texts, null=True),
    },
    rules=(*OUTSIDE, *ATTENTION, QKV_BIAS, *MLP),
    language_class="Qwen2ForCausalLM",
    value_class="Qwen2ForTokenClassification",
    sglang_module="qwen2",
    engine_alone={"dual_chunk_attention_config": None, "scale_emb": 1, "original_num_attention_heads": None},
    restrictions=(readable_weights, known_scaling, rotary_of_whole_heads, full_or_windowed, silu_activation),
    megatron=(llama_like, qkv_bias),
    reach=of_later_windows,
    adapters=True,
    tokenizer_classes={"Qwen2Tokenizer": "Qwen2Tokenizer", "Qwen2TokenizerFast": "Qwen2Tokenizer"},
)
