"""Qwen3, dense. Source: transformers' configuration_qwen3.py and modeling_qwen3.py (5.12)."""

from __future__ import annotations

from rlscale.families.decoder import ATTENTION, HEAD_NORMS, KEYS, MLP, OUTSIDE, WINDOWS
from rlscale.families.family import Family, Key, Kind
from rlscale.families.megatron_options import llama_like, normed_heads
from rlscale.families.reach import full_or_windowed, of_later_windows
from rlscale.families.restrictions import (
    no_attention_bias,
    readable_weights,
    rotary_of_whole_heads,
    silu_activation,
)
from rlscale.families.rotary import known_scaling

COMMON = {**KEYS, **WINDOWS, "attention_bias": Key(Kind.flag, False, defines=True)}
"""The keys that Qwen3 and its mixture of experts share."""

RULES = (*OUTSIDE, *ATTENTION, *HEAD_NORMS)
"""The parameters that Qwen3 and its mixture of experts share."""

RESTRICTIONS = (
    readable_weights,
    known_scaling,
    rotary_of_whole_heads,
    full_or_windowed,
    no_attention_bias,
    silu_activation,
)
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

FAMILY = Family(
    model_type="qwen3",
    keys={
        **COMMON,
        "intermediate_size": Key(Kind.size, needed=True, defines=True),
        "num_key_value_heads": Key(Kind.size, 32, null=True, defines=True),
        "head_dim": Key(Kind.size, defines=True),
        "layer_types": Key(Kind.texts, null=True),
    },
    rules=(*RULES, *MLP),
    language_class="Qwen3ForCausalLM",
    value_class="Qwen3ForTokenClassification",
    sglang_module="qwen3",
    restrictions=RESTRICTIONS,
    megatron=MEGATRON,
    adapters=True,
    tokenizer_classes=TOKENIZERS,
    own_head_dim=128,
    reach=of_later_windows,
)
