"""How often the tokens of a sample are read: those of its segments over those that differ in what they follow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rlscale.data.sample import Sample


def tokens_that_differ(sequences: Sequence[NDArray[np.int32]]) -> int:
    """Tokens of all sequences, those that several begin with counted once."""
    # In the order of their tokens the one before begins with as much of a sequence as any other does.
    ordered = sorted(sequences, key=lambda tokens: tokens.astype(">u4").tobytes())
    return sum(map(len, ordered)) - sum(_common(*pair) for pair in pairwise(ordered))


def duplication(samples: Sequence[Sample]) -> float:
    """Tokens of all segments of the samples over those that differ: 1 where nothing is read twice."""
    whole = sum(len(sample.tokens) for sample in samples)
    return whole / max(sum(tokens_that_differ(_segments(sample)) for sample in samples), 1)


def _segments(sample: Sample) -> list[NDArray[np.int32]]:
    ends = np.cumsum([segment.length for segment in sample.segments])
    return np.split(sample.tokens, ends[:-1])


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many tokens both begin with."""
    least = min(len(one), len(other))
    differ = (one[:least] != other[:least]).nonzero()[0]
    return int(differ[0]) if len(differ) else least
