"""Which weights generated which tokens of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
"""Version of tokens that an engine generated before it was told any."""


def versions_of(meta: Mapping[str, Any], tokens: int) -> NDArray[np.int32]:
    """The weight version of each of an answer's `tokens` tokens, int32 [tokens], from its `meta_info`.

    SGLang gives spans {version, start, end} as `weight_versions`; a version that is not a number is UNKNOWN. ValueError
    where there are none although there are tokens, or they do not cover the tokens in their order.
    """
    versions = np.full(tokens, UNKNOWN, np.int32)
    spans = meta.get("weight_versions") or ()
    if tokens and not spans:
        raise ValueError("the answer does not say which weights generated it (weight_versions)")
    reached = 0
    for span in spans:
        start, end = int(span["start"]), int(span["end"])
        if start != reached or end < start:
            raise ValueError(f"the answer's weight_versions do not follow one another: {list(spans)}")
        versions[start:end] = _number(span["version"])
        reached = end
    if reached < tokens:
        raise ValueError(f"the answer's weight_versions cover {reached} of {tokens} tokens: {list(spans)}")
    return versions


def _number(version: Any) -> int:
    """Engines say "default" until the first sync."""
    try:
        return int(version)
    except (TypeError, ValueError):
        return UNKNOWN
