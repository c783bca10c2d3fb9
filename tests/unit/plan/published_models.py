"""Models of published runs: their shapes, also of families that the trainer does not know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscale.config.composition.published_configs import published
from rlscale.families.config_file import complete
from rlscale.plan.model_shape import LayerWeights, ModelShape

FACTS = Path(__file__).parents[2] / "fixtures" / "plan"
RUNS: dict[str, Any] = json.loads((FACTS / "published_runs.json").read_text(encoding="utf-8"))


def shape_of(name: str) -> ModelShape:
    """The shape of a model of the facts."""
    sizes = RUNS["models"][name]
    if "config" in sizes:
        return ModelShape.of(complete(published()[sizes["config"]]))
    attention, cached = _attention(sizes)
    hidden, inner = sizes["hidden"], sizes["inner"]
    shared = 3 * hidden * sizes.get("shared_inner", 0)
    experts = sizes.get("experts", 0)
    expert = 3 * hidden * sizes.get("expert_inner", 0)
    # Queries, keys and values of latent attention are as wide in training as those of ordinary attention.
    mla = sizes.get("mla")
    return ModelShape(
        hidden=hidden,
        layers=sizes["layers"],
        dense_layers=sizes.get("dense_layers", sizes["layers"]),
        heads=sizes["heads"],
        key_heads=sizes.get("key_heads", sizes["heads"]),
        head_size=sizes["head_size"] if mla is None else mla[2] + mla[3],
        inner=inner,
        vocabulary=sizes["vocabulary"],
        tied=False,
        dense=LayerWeights(attention + 3 * hidden * inner, 2 * hidden, 0, 2 * hidden * inner),
        sparse=LayerWeights(attention + shared, 2 * hidden + experts * hidden, expert, max(attention, expert) // 3),
        experts=experts,
        experts_per_token=sizes.get("experts_per_token", 0),
        expert_inner=sizes.get("expert_inner", 0),
        shared_inner=sizes.get("shared_inner", 0),
        cached_per_token=cached,
    )


def _attention(sizes: Mapping[str, Any]) -> tuple[int, int | None]:
    """(parameters of a layer's attention, numbers that it caches per token where those are not keys and values)."""
    hidden, heads = sizes["hidden"], sizes["heads"]
    if "mla" not in sizes:
        query, key = heads * sizes["head_size"], sizes["key_heads"] * sizes["head_size"]
        return 2 * hidden * query + 2 * hidden * key, None
    q_lora, kv_lora, nope, rope, value = sizes["mla"]
    query = hidden * q_lora + q_lora * heads * (nope + rope)
    keys = hidden * (kv_lora + rope) + kv_lora * heads * (nope + value)
    total = query + keys + heads * value * hidden
    if "indexer" in sizes:
        index_heads, index_size = sizes["indexer"]
        total += q_lora * index_heads * index_size + hidden * index_size + hidden * index_heads
    return total, kv_lora + rope
