"""What an engine without a model generates: tokens and log-probs from the request's seed alone.

Both are functions of seed, weights and the token's place in its sequence. So a request that was cut off and goes on
behind what it had gets the tokens that it would have got, as from a real engine with the same weights.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

N = TypeVar("N", bound=np.generic)

_PERIOD = 1 << 18
"""Places after which the stream begins again. It is made once: each response is a part of it."""
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_BELOW_53 = np.uint64(11)
_LAST = np.uint64(31)
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
    seed: int, weights: int, start: int, count: int, first: int, vocabulary: int, ends: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """`count` tokens from place `start` of the sequence on, and their log-probs.

    int32 from [first, vocabulary) without `ends`, which are in order and different; float64, as `logprobs_of`.
    """
    begin = _begin(seed, weights, start)
    return _part(_all_tokens(first, vocabulary, ends), begin, count), _part(_all_logprobs(), begin, count)


def logprobs_of(seed: int, weights: int, start: int, count: int) -> NDArray[np.float64]:
    """`count` log-probs from place `start` on, between -2.05 and -0.05."""
    return _part(_all_logprobs(), _begin(seed, weights, start), count)


def _begin(seed: int, weights: int, start: int) -> int:
    """Where in the stream the place of a sequence lies: a request's tokens are a part of it that its seed chooses."""
    return (mixed(1, seed, weights) + start) % _PERIOD


def _part(stream: NDArray[N], begin: int, count: int) -> NDArray[N]:
    """`count` values from there on, in an array of their own; behind the last one follows the first."""
    if begin + count <= _PERIOD:
        return stream[begin : begin + count].copy()
    return stream.take(np.arange(begin, begin + count), mode="wrap")


@lru_cache(maxsize=8)
def _all_tokens(first: int, vocabulary: int, ends: tuple[int, ...]) -> NDArray[np.int32]:
    """int32 [_PERIOD]."""
    left_out = [end for end in ends if first <= end < vocabulary]
    tokens = (_bits() % np.uint64(vocabulary - first - len(left_out))).astype(np.int32) + np.int32(first)
    for end in left_out:
        tokens += tokens >= end
    return tokens


@lru_cache(maxsize=1)
def _all_logprobs() -> NDArray[np.float64]:
    """float64 [_PERIOD]."""
    return (_bits() >> _BELOW_53).astype(np.float64) * (-2.0 / 2.0**53) - 0.05


def _bits() -> NDArray[np.uint64]:
    """uint64 [_PERIOD]: splitmix64 of consecutive places."""
    bits = np.arange(_PERIOD, dtype=np.uint64) * np.uint64(_GOLDEN)  # products wrap around, as they shall
    for shift, factor in _ROUNDS:
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> _LAST)


def _finish(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)
