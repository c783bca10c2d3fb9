"""The sizes of a model that memory and time follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

from rlscale.families import FAMILIES
from rlscale.families.family import LINEAR, Layers, Rule, dense_layers, dimensions
from rlscale.families.tensors import predicting_layer

_CHUNK = 64
"""Tokens that a gated delta net computes together (`rlscale.platform.gated_delta_rule`)."""


@dataclass(frozen=True)
class LayerWeights:
    """Parameters of one layer, by what parallelism does to them."""

    split: int = 0
    """Those that tensor parallelism divides."""
    whole: int = 0
    """Those that every rank holds: norms, biases of row-parallel matrices, the router."""
    per_expert: int = 0
    """Those of one expert, which expert tensor parallelism divides."""
    largest: int = 0
    """The largest single tensor, undivided."""


@dataclass(frozen=True)
class ModelShape:
    """A model as memory and time see it."""

    hidden: int
    layers: int
    dense_layers: int
    """Layers without experts, which come first; all of them in a dense model."""
    heads: int
    key_heads: int
    head_size: int
    inner: int
    """Width between the matrices of a layer without experts."""
    vocabulary: int
    tied: bool
    """Whether embedding and output projection are one tensor."""
    dense: LayerWeights
    sparse: LayerWeights
    experts: int = 0
    experts_per_token: int = 0
    expert_inner: int = 0
    shared_inner: int = 0
    delta_layers: int = 0
    """Layers with a gated delta net instead of attention, which cache no token; `dense` and `sparse` are means then."""
    delta_kept: int = 0
    """Numbers that such a net keeps of a token for the backward pass, besides its input."""
    head_norms: bool = False
    """Whether queries and keys are normed, which keeps them once more for the backward pass."""
    predicting: LayerWeights = LayerWeights()
    """The layer that predicts a token further, where it is trained; one with experts like the last of the others."""
    cached_per_token: int | None = None
    """Numbers that a layer's cache holds for a token with latent attention; None: keys and values of all key heads."""

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, which are as many as those of an output projection of its own."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        sparse = self.layers - self.dense_layers
        inside = self.dense_layers * (self.dense.split + self.dense.whole)
        inside += sparse * (self.sparse.split + self.sparse.whole + self.experts * self.sparse.per_expert)
        inside += self.predicting.split + self.predicting.whole + self.experts * self.predicting.per_expert
        return inside + self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def visited(self) -> int:
        """Parameters of the layers that one token meets."""
        sparse = self.layers - self.dense_layers
        behind = self.sparse.split + self.sparse.whole + self.experts_per_token * self.sparse.per_expert
        return self.dense_layers * (self.dense.split + self.dense.whole) + sparse * behind

    @property
    def cache_numbers(self) -> int:
        """Numbers that all layers' caches hold for a token."""
        own = 2 * self.key_heads * self.head_size if self.cached_per_token is None else self.cached_per_token
        return (self.layers - self.delta_layers) * own

    def cache_parts(self, ranks: int) -> int:
        """Among how many of an engine's ranks the cache is divided; one of latent attention is whole on each."""
        return min(ranks, self.key_heads) if self.cached_per_token is None else 1

    @classmethod
    def of(cls, config: Mapping[str, Any], *, mtp: bool = False) -> ModelShape:
        """Those of a completed config of a known family; `mtp`: with the layer that predicts a token further."""
        rules = [rule for rule in FAMILIES[config["model_type"]].rules_of(config) if not rule.frozen]
        inside = [rule for rule in rules if "{layer}" in rule.megatron]
        sizes = dimensions(config)
        layers = int(config["num_hidden_layers"])
        experts = sizes["experts"] if FAMILIES[config["model_type"]].experts else 0
        delta_layers = [*config["layer_types"]].count(LINEAR) if FAMILIES[config["model_type"]].delta_net else 0
        shares = {Layers.linear: Fraction(delta_layers, layers), Layers.full: Fraction(layers - delta_layers, layers)}
        return cls(
            hidden=sizes["hidden"],
            layers=layers,
            dense_layers=dense_layers(config) if experts else layers,
            heads=int(config["num_attention_heads"]),
            key_heads=int(config["num_key_value_heads"]),
            head_size=sizes["query"] // int(config["num_attention_heads"]),
            inner=sizes["inner"],
            vocabulary=sizes["vocabulary"],
            tied=bool(config.get("tie_word_embeddings")),
            dense=_weights([rule for rule in inside if rule.layers is not Layers.sparse], sizes, shares),
            sparse=_weights([rule for rule in inside if rule.layers is not Layers.dense], sizes, shares),
            predicting=_weights(predicting_layer(config), sizes, {}) if mtp else LayerWeights(),
            experts=experts,
            experts_per_token=int(config.get("num_experts_per_tok") or 0) if experts else 0,
            expert_inner=sizes["expert_inner"] if experts else 0,
            shared_inner=sizes["shared_inner"] if experts else 0,
            cached_per_token=sizes["key_rank_and_rotary"] if sizes["key_rank"] else None,
            delta_layers=delta_layers,
            delta_kept=_kept_of_delta_net(config, sizes) if delta_layers else 0,
            head_norms=any("q_layernorm" in rule.megatron for rule in inside),
        )


def _kept_of_delta_net(config: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    """What a gated delta net makes of a token: projections, filtered ones, vectors of its heads, rows of a chunk."""
    heads, width = sizes["delta_heads"], sizes["delta_convolved"]
    filtered = (sizes["convolution"] + 1) * width
    by_head = heads * (6 * config["linear_key_head_dim"] + 6 * config["linear_value_head_dim"])
    return sizes["delta_projected"] + filtered + by_head + 4 * heads * _CHUNK


def _weights(rules: list[Rule], sizes: Mapping[str, int], shares: Mapping[Layers, Fraction]) -> LayerWeights:
    """Those of a layer; of what only a share of the layers has, that share."""
    split = whole = per_expert = largest = 0
    for rule in rules:
        numbers = sum(prod(sizes[size] for size in tensor.shape) for tensor in rule.hf)
        largest = max(largest, numbers)
        numbers = int(numbers * shares.get(rule.layers, 1))
        if "{expert}" in rule.megatron:
            per_expert += numbers
        elif rule.split is None:
            whole += numbers
        else:
            split += numbers
    return LayerWeights(split, whole, per_expert, largest)
