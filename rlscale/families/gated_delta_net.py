"""Gated delta nets (arXiv 2412.06464) between layers of attention: keys, rules, options of families that have them.

Such a layer keeps a matrix per head instead of keys and values: a token's query, key and value come from one projection
and a short causal convolution, and what the token adds to the matrix, and how much of it stays, are projections too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.families.family import FULL, HF, LAYER, LINEAR, Form, HFTensor, Key, Kind, Layers, Rule

INTERVAL = 4
"""Of how many layers one has full attention, where a config does not say."""

KEYS = {
    "layer_types": Key(Kind.texts, null=True, defines=True),
    "full_attention_interval": Key(Kind.size, null=True),
    "linear_conv_kernel_dim": Key(Kind.size, 4, defines=True),
    "linear_key_head_dim": Key(Kind.size, 128, defines=True),
    "linear_value_head_dim": Key(Kind.size, 128, defines=True),
    "linear_num_key_heads": Key(Kind.size, 16, defines=True),
    "linear_num_value_heads": Key(Kind.size, 32, defines=True),
}
"""The keys that say which layers have one, and how large its parts are."""

_NET, _HF = LAYER + "self_attention.", HF + "linear_attn."

RULES = (
    Rule(
        _NET + "in_proj.layer_norm_weight",
        (HFTensor(HF + "input_layernorm.weight", ("hidden",)),),
        layers=Layers.linear,
    ),
    Rule(
        _NET + "in_proj.weight",
        (
            HFTensor(_HF + "in_proj_qkvz.weight", ("delta_projected", "hidden")),
            HFTensor(_HF + "in_proj_ba.weight", ("delta_gates", "hidden")),
        ),
        Form.delta_projections,
        0,
        layers=Layers.linear,
    ),
    Rule(
        _NET + "conv1d.weight",
        (HFTensor(_HF + "conv1d.weight", ("delta_convolved", "one", "convolution")),),
        Form.delta_convolution,
        0,
        layers=Layers.linear,
    ),
    Rule(_NET + "A_log", (HFTensor(_HF + "A_log", ("delta_heads",)),), split=0, layers=Layers.linear),
    Rule(_NET + "dt_bias", (HFTensor(_HF + "dt_bias", ("delta_heads",)),), split=0, layers=Layers.linear),
    Rule(_NET + "out_norm.weight", (HFTensor(_HF + "norm.weight", ("delta_head",)),), layers=Layers.linear),
    Rule(
        _NET + "out_proj.weight",
        (HFTensor(_HF + "out_proj.weight", ("hidden", "delta_values")),),
        split=1,
        layers=Layers.linear,
    ),
)
"""The parameters of a layer's gated delta net."""


def complete_layer_types(whole: dict[str, Any]) -> None:
    """Name the kind of every layer where a config gives the interval only, as transformers does."""
    every = int(whole.get("full_attention_interval") or INTERVAL)
    kinds = [LINEAR if (layer + 1) % every else FULL for layer in range(whole["num_hidden_layers"])]
    whole.setdefault("layer_types", kinds)


def gated_delta_net(config: Mapping[str, Any]) -> dict[str, Any]:
    """Megatron's options."""
    return {
        "experimental_attention_variant": "gated_delta_net",
        "linear_attention_freq": [int(kind == LINEAR) for kind in config["layer_types"]],
        **{key: config[key] for key in KEYS if key.startswith("linear_")},
    }


def sections(form: Form, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Rows of each part of such a parameter as Megatron has it, from a model's `dimensions`."""
    keys, values, heads = (sizes[f"delta_{name}"] for name in ("keys", "values", "heads"))
    if form is Form.delta_convolution:
        return keys, keys, values
    assert form is Form.delta_projections
    return keys, keys, values, values, heads, heads


def layers_alike(config: Mapping[str, Any]) -> Iterator[str]:
    """SGLang reads full_attention_interval alone, where transformers reads layer_types."""
    every, kinds = config.get("full_attention_interval"), list(config["layer_types"])
    if every is None:
        yield "full_attention_interval is missing; SGLang reads it"
        return
    regular: dict[str, Any] = {"num_hidden_layers": len(kinds), "full_attention_interval": every}
    complete_layer_types(regular)
    if kinds != regular["layer_types"]:
        yield f"layer_types must be what full_attention_interval={every} says, which SGLang reads: {LINEAR} and {FULL}"


def heads_of_values_divide(config: Mapping[str, Any]) -> Iterator[str]:
    """Every key head serves the same number of value heads."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    if values % keys:
        yield f"linear_num_value_heads={values} is not a multiple of linear_num_key_heads={keys}"
