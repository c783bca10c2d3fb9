"""Which models trainer and engine can compute with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.families.family import Family
from rlscale.families.tensors import experts_of

_TOGETHER = 32
"""Numbers that torch takes the sigmoid of at a time; the last few of a tensor it takes one by one, with other bits."""


def why_not_bitwise(family: Family, config: Mapping[str, Any]) -> str | None:
    """Why trainer and engine cannot compute a model of this completed config alike; None where they can."""
    if family.delta_net:
        return "a gated delta net is summed in chunks by the trainer, and token by token by an engine that generates"
    options = family.transformer_options(config)
    experts = experts_of(config)
    sizes = {f"{experts} experts": experts if options.get("moe_router_score_function") == "sigmoid" else 0}
    for key in ("ffn_hidden_size", "moe_ffn_hidden_size", "moe_shared_expert_intermediate_size"):
        sizes[f"layers of {options.get(key)}"] = options.get(key) or 0
    for what, size in sizes.items():
        if size % _TOGETHER:
            return (
                f"it has {what}, no multiple of {_TOGETHER}: a sigmoid of that many numbers depends on how many tokens "
                "it is computed of at a time"
            )
    return None
