"""A small model of the same family: what is particular to it stays, sizes and counts are cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.families import FAMILIES, known_name

MOST: dict[str, int] = {
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "intermediate_size": 256,
    "head_dim": 32,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "index_n_heads": 4,
    "index_head_dim": 32,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "num_experts": 8,
    "n_routed_experts": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
}
"""The largest value of each key."""
_HEADS, _SHARED_HEADS = 8, 2
"""Attention heads, and those of keys and values where they are fewer."""
_OF_THE_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
_DENSE_OR_SPARSE = "mlp_layer_types"
_PER_LAYER = ("layer_types", "indexer_types", "index_topk_pattern")
_LAYERS = "mlp_only_layers"
_SEEN = ("index_topk", "sliding_window")
"""How many tokens attention sees, see `reach`: all that there can be, because texts are longer where the tokenizer has
tokens for characters only."""


def shrunk(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a small model of the family of `config`, without what its tokenizer decides.

    Rotary positions, norms, biases, routing and ties are as they were; so is whether keys and values have fewer heads.
    Attention sees all tokens.
    """
    family = FAMILIES[known_name(config["model_type"])]
    known = {key: config[key] for key in family.keys if key in config and key not in _OF_THE_TOKENIZER}
    # A completed config also has what follows from other sizes.
    usual = known["hidden_size"] // known["num_attention_heads"]
    if family.latent or (family.own_head_dim is None and known.get("head_dim") == usual):
        known.pop("head_dim", None)
    small = {key: min(value, MOST[key]) if key in MOST and value is not None else value for key, value in known.items()}
    heads, shared = known["num_attention_heads"], known.get("num_key_value_heads")
    small["num_attention_heads"] = min(heads, _HEADS)
    if shared is not None:
        small["num_key_value_heads"] = small["num_attention_heads"] if shared == heads else min(shared, _SHARED_HEADS)
    for key in _PER_LAYER:
        if small.get(key):
            small[key] = small[key][: small["num_hidden_layers"]]
    if small.get(_LAYERS):
        small[_LAYERS] = [layer for layer in small[_LAYERS] if layer < small["num_hidden_layers"]]
    for key in _SEEN:
        if small.get(key):
            small[key] = max(small[key], small["max_position_embeddings"])
    if _DENSE_OR_SPARSE in small:
        dense, layers = small["first_k_dense_replace"], small["num_hidden_layers"]
        small[_DENSE_OR_SPARSE] = ["dense"] * dense + ["sparse"] * (layers - dense)
    return {"model_type": family.model_type, **small}
