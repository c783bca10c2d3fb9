"""How each source of a mixture is sampled: as the rollout is, but for what the source says itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlscale.config.schema.data_config import DataConfig, MixtureData, SourceConfig
from rlscale.config.schema.rollout_config import RolloutConfig

MOST_WORDS = 1024
"""Words that top-p or min-p may leave where the answer has to name them, which SGLang wants a bound for."""

OWN_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "ignore_eos")
"""Sampling parameters that a source may have of its own, by the names that they have in `rollout`. Its samples say what
they were drawn from, and at which temperature."""


def own_sampling(source: SourceConfig) -> dict[str, Any]:
    """What a source says of its sampling."""
    return {key: value for key in OWN_SAMPLING if (value := getattr(source, key)) is not None}


def sampled_apart(rollout: RolloutConfig, data: DataConfig) -> dict[str, RolloutConfig]:
    """The section as it is for the sources of a mixture that have sampling parameters of their own, by name."""
    sources = data.sources if isinstance(data, MixtureData) else {}
    return {name: replace(rollout, **own) for name, source in sources.items() if (own := own_sampling(source))}
