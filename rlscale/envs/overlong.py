"""Overlong shaping: a penalty in the reward that grows as a response comes near the length limit."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.schema.algo_config import OverlongConfig
from rlscale.data.sample import Sample


def overlong_penalty(length: int, limit: int, cache: int) -> float:
    """0 for responses of up to limit - cache tokens, then falling linearly to -1 at `limit`; -1 beyond.

    `length`, `limit` and `cache` in tokens. ValueError unless 1 <= cache <= limit.
    Source: DAPO (arXiv 2503.14476), eq. 13.
    """
    if not 1 <= cache <= limit:
        raise ValueError(f"cache is {cache} tokens, must be from 1 to the limit of {limit}")
    free = limit - cache
    if length <= free:
        return 0.0
    return max((free - length) / cache, -1.0)


@dataclass(frozen=True)
class OverlongShaping:
    """What is added to the reward of a training sample: `penalty` times `overlong_penalty`."""

    limit: int
    cache: int
    penalty: float

    @staticmethod
    def of(config: OverlongConfig, max_response_tokens: int) -> OverlongShaping | None:
        """The configured shaping, None if its penalty is 0."""
        if not config.penalty:
            return None
        cache = max(1, max_response_tokens // 5) if config.cache_tokens is None else config.cache_tokens
        return OverlongShaping(max_response_tokens, cache, config.penalty)

    def __call__(self, sample: Sample) -> float:
        return self.penalty * overlong_penalty(sample.response_length, self.limit, self.cache)
