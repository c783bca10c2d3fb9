"""What an engine without a model generates: tokens and log-probs from the request's seed alone.

Both are functions of seed, weights and the token's place in its sequence. So a request that was cut off and goes on
behind what it had gets the tokens that it would have got, as from a real engine with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_BELOW_53 = np.uint64(11)
_GOLDEN_64, _LAST = np.uint64(_GOLDEN), np.uint64(31)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def mixed(*numbers: int) -> int:
    """64 well-mixed bits of some whole numbers (splitmix64 over them)."""
    state = 0
    for number in numbers:
        state = _finish((state + (number & _MASK) + _GOLDEN) & _MASK)
    return state


def uniform(*numbers: int) -> float:
    """A number in (0, 1) of some whole numbers."""
    return (mixed(*numbers) + 0.5) / 2**64


def drawn(
    seed: int, weights: int, start: int, count: int, first: int, vocabulary: int, ends: Sequence[int]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """`count` tokens from place `start` of the sequence on, and their log-probs.

    int32 from [first, vocabulary) without `ends`, which are in order and different; float64, as `logprobs_of`.
    """
    left_out = [end for end in ends if first <= end < vocabulary]
    bits = _bits(seed, weights, start, count)
    tokens = (bits % np.uint64(vocabulary - first - len(left_out))).astype(np.int32)
    tokens += np.int32(first)
    for end in left_out:
        tokens += tokens >= end
    return tokens, _logprobs(bits)


def logprobs_of(seed: int, weights: int, start: int, count: int) -> NDArray[np.float64]:
    """`count` log-probs from place `start` on, between -2.05 and -0.05."""
    return _logprobs(_bits(seed, weights, start, count))


def _logprobs(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    found = (bits >> _BELOW_53).astype(np.float64)
    found *= -2.0 / 2.0**53
    found -= 0.05
    return found


def _bits(seed: int, weights: int, start: int, count: int) -> NDArray[np.uint64]:
    """uint64 [count]: splitmix64 of seed, weights and consecutive places."""
    key = mixed(1, seed, weights)
    bits = np.arange(start, start + count, dtype=np.uint64)  # whose products wrap around, as they shall
    bits *= _GOLDEN_64
    bits += np.uint64(key)
    for shift, factor in _ROUNDS:
        bits ^= bits >> shift
        bits *= factor
    bits ^= bits >> _LAST
    return bits


def _finish(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)
