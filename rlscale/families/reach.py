"""Up to where attention that sees a part of the tokens sees all of them: sliding windows, and sparse attention.

Trainer and engines attend to all tokens. Where a model's attention sees the last ones only, or chosen ones, that is the
same as long as a sequence has no more than it can see. Longer sequences are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.families.family import FULL, Reach

WINDOWED = "sliding_attention"
"""The kind of a layer with a window, in a config's `layer_types`."""


def of_windows(config: Mapping[str, Any]) -> Reach | None:
    """The last `sliding_window` tokens in every layer, by a completed config; None where none is used."""
    window = config["sliding_window"] if config["use_sliding_window"] else None
    return None if window is None else Reach(int(window), "sliding_window")


def of_later_windows(config: Mapping[str, Any]) -> Reach | None:
    """The same in some layers: those that `layer_types` names, where it is not given those from `max_window_layers`."""
    kinds = config.get("layer_types")
    none = config["max_window_layers"] >= config["num_hidden_layers"] if kinds is None else WINDOWED not in kinds
    return None if none else of_windows(config)


def of_choice(config: Mapping[str, Any]) -> Reach | None:
    """The `index_topk` tokens that an indexer chooses, see `sparse_attention`."""
    return Reach(int(config["index_topk"]), "index_topk")


def full_or_windowed(config: Mapping[str, Any]) -> Iterator[str]:
    """A layer sees all tokens before it, or the last ones where windows are used."""
    used = config["use_sliding_window"] and config["sliding_window"] is not None
    known = {FULL, WINDOWED} if used else {FULL}
    if other := {*config.get("layer_types", ())} - known:
        named, only = ", ".join(sorted(other)), " or ".join(sorted(known))
        without = "sliding_window=null" if config["use_sliding_window"] else "use_sliding_window=false"
        hint = f" with {without}" if other == {WINDOWED} else ""
        yield f"layer_types with {named} is not supported for {config['model_type']}{hint}; only {only}"
