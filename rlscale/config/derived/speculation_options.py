"""SGLang's options for `rollout.speculation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.config.schema.speculation_config import Algorithm, SpeculationConfig

_NAMES = {
    Algorithm.mtp: "NEXTN",
    Algorithm.eagle: "EAGLE",
    Algorithm.eagle3: "EAGLE3",
    Algorithm.standalone: "STANDALONE",
    Algorithm.ngram: "NGRAM",
}


def speculation_options(config: SpeculationConfig, model_path: str, draft: str | None) -> dict[str, Any]:
    """Those of engines that serve the folder `model_path`; `draft` is the folder of a draft's own."""
    if config.algorithm is Algorithm.none:
        return {}
    options = {
        "speculative_algorithm": _NAMES[config.algorithm],
        # Not every family's own layers are found by SGLang unless it is told that they lie with the model.
        "speculative_draft_model_path": model_path if config.algorithm is Algorithm.mtp else draft,
        "speculative_num_steps": config.steps,
        "speculative_eagle_topk": config.topk,
        "speculative_num_draft_tokens": config.draft_tokens,
    }
    return {name: value for name, value in options.items() if value is not None}


def draft_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """By what an engine with these options of SGLang loads a draft's own folder: as the model's, unless it is said."""
    own = options.get("speculative_draft_load_format")
    return dict(options) if own is None else {**options, "load_format": own}
