"""Sparse attention of DeepSeek's kind (DSA, arXiv 2512.02556): keys, and tensors of the indexers that choose tokens.

An indexer, a small attention of its own, chooses the `index_topk` tokens that a token's latent attention sees. As long
as there are no more than that before it, they are all, and attention is that of `latent_attention`. The trainer
computes this and nothing else (see `reach`), and has no indexers. Layers may take the choice of the
layer before them and then have no indexer (arXiv 2603.12201).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.families.family import CHOOSING, HF, LAYER, SHARING, HFTensor, Key, Kind, Layers, Rule

_KIND = "deepseek_sparse_attention"
_OF_PATTERN = {"F": CHOOSING, "S": SHARING}

KEYS = {
    "index_topk": Key(Kind.size, 2048, defines=True),
    "index_head_dim": Key(Kind.size, 128, defines=True),
    "index_n_heads": Key(Kind.size, 32, defines=True),
    "indexer_rope_interleave": Key(Kind.flag, null=True),
    "indexer_types": Key(Kind.texts, null=True, defines=True),
    "index_topk_pattern": Key(Kind.text, null=True),
    "index_topk_freq": Key(Kind.size, 1),
    "index_skip_topk_offset": Key(Kind.size, 2),
    "layer_types": Key(Kind.texts, null=True),
}
"""The keys that say how large an indexer is, and which layers have one."""

ENGINE_READS = ("index_topk_pattern", "index_topk_freq", "index_skip_topk_offset")
"""Keys that SGLang reads and transformers leaves out of folders that it writes."""

_INDEXER, _HF = LAYER + "self_attention.core_attention.indexer.", HF + "self_attn.indexer."

INDEXERS = tuple(
    Rule(_INDEXER + megatron, (HFTensor(_HF + hf, shape),), layers=Layers.choosing)
    for megatron, hf, shape in (
        ("linear_wq_b.weight", "wq_b.weight", ("indexer_query", "query_rank")),
        ("linear_wk.weight", "wk.weight", ("indexer_head", "hidden")),
        ("k_norm.weight", "k_norm.weight", ("indexer_head",)),
        ("k_norm.bias", "k_norm.bias", ("indexer_head",)),
        ("linear_weights_proj.weight", "weights_proj.weight", ("indexer_heads", "hidden")),
    )
)
"""The tensors of a layer's indexer, under the names that Megatron's own has for them."""


def complete_indexers(whole: dict[str, Any]) -> None:
    """Name the kind of every layer's indexer where a config gives their schedule only, as transformers does."""
    whole.setdefault("indexer_types", _scheduled(whole))


def _scheduled(config: Mapping[str, Any]) -> list[str]:
    """The kind of every layer by the keys that SGLang reads: a letter for each, else one of so many from an offset."""
    pattern, layers = config.get("index_topk_pattern"), range(int(config["num_hidden_layers"]))
    if pattern is not None:
        return [_OF_PATTERN.get(letter, letter) for letter in pattern]
    every, first = config["index_topk_freq"], config["index_skip_topk_offset"]
    return [SHARING if max(layer - first + 1, 0) % every else CHOOSING for layer in layers]


def indexers_are_said_alike(config: Mapping[str, Any]) -> Iterator[str]:
    """Every layer's indexer is known, the first has one, and SGLang reads the same as transformers."""
    kinds, layers = config["indexer_types"], config["num_hidden_layers"]
    if other := {*config.get("layer_types", ())} - {_KIND}:
        yield f"layer_types with {', '.join(sorted(other))} is not supported for {config['model_type']}; only {_KIND}"
    if len(kinds) != layers or {*kinds} - {CHOOSING, SHARING}:
        yield f"indexer_types (or index_topk_pattern) must say {CHOOSING} or {SHARING} for each of {layers} layers"
    elif kinds != _scheduled(config):
        yield (
            "indexer_types must be what index_topk_pattern, or else index_topk_freq and index_skip_topk_offset, say, "
            "which SGLang reads"
        )
    elif kinds[0] != CHOOSING:
        yield "indexer_types must say that the first layer has an indexer, because there is no choice before it"
