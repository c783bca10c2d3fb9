"""Llama 2, 3, 3.1, 3.2 (text) and 3.3. Source: transformers' configuration_llama.py and modeling_llama.py (5.12)."""

from __future__ import annotations

from rlscale.families.decoder import ATTENTION, KEYS, MLP, OUTSIDE
from rlscale.families.family import Family, Key, Kind
from rlscale.families.megatron_options import llama_like
from rlscale.families.restrictions import (
    heads_divide_hidden,
    no_attention_bias,
    no_mlp_bias,
    readable_weights,
    rotary_of_whole_heads,
    silu_activation,
)
from rlscale.families.rotary import known_scaling

FAMILY = Family(
    model_type="llama",
    keys={
        **KEYS,
        "intermediate_size": Key(Kind.size, 11008, defines=True),
        "num_key_value_heads": Key(Kind.size, null=True, defines=True),
        "head_dim": Key(Kind.size, null=True, defines=True),
        "max_position_embeddings": Key(Kind.size, 2048),
        "attention_bias": Key(Kind.flag, False, defines=True),
        "mlp_bias": Key(Kind.flag, False, defines=True),
        "pretraining_tp": Key(Kind.size, 1, null=True),
    },
    rules=(*OUTSIDE, *ATTENTION, *MLP),
    language_class="LlamaForCausalLM",
    value_class="LlamaForTokenClassification",
    sglang_module="llama",
    engine_alone={"bias": False, "rope_is_neox_style": True},
    restrictions=(
        readable_weights,
        known_scaling,
        rotary_of_whole_heads,
        no_attention_bias,
        no_mlp_bias,
        silu_activation,
        heads_divide_hidden,
    ),
    megatron=(llama_like,),
    adapters=True,
)
