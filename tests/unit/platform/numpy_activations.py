"""Quantised activations once more, in NumPy: what each kernel's codes are worth, and how near it came to a tie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.unit.weights.encode.numpy_encodings import Floats, e4m3, to_a_tie, worth

_LARGEST = np.float32(448)
_Factors = Callable[[Floats], tuple[Floats, Floats]]
"""Largest magnitude of each group -> what its numbers are multiplied by before they become codes, and codes after."""


@dataclass
class Roundings:
    """Rounds, and remembers how near a number was to one that either of two codes is as near to.

    Where it was very near, another order of a sum makes the other code of it, and what is computed with it differs.
    """

    nearest: float = field(default=np.inf)
    """Of numbers the largest of which became 448."""

    def by_group(self, x: Floats, columns: int) -> Floats:
        def factors(largest: Floats) -> tuple[Floats, Floats]:
            largest = np.maximum(largest, np.float32(1e-10))
            return _LARGEST / largest, largest * (np.float32(1) / _LARGEST)

        return self._each(x, columns, factors)

    def by_token(self, x: Floats) -> Floats:
        return self._each(x, x.shape[-1], _by_largest)

    def by_batch(self, x: Floats) -> Floats:
        return self._each(x, x.size, _by_largest)

    def by_power_of_two(self, x: Floats, columns: int) -> Floats:
        def factors(largest: Floats) -> tuple[Floats, Floats]:
            exponents = np.full_like(largest, -126)
            while (above := largest / np.exp2(exponents.astype(np.float64)) > 448).any():
                exponents[above] += 1
            return np.exp2(-exponents), np.exp2(exponents)

        return self._each(x, columns, factors)

    def _each(self, x: Floats, columns: int, factors: _Factors) -> Floats:
        made = np.zeros_like(x).reshape(-1, columns) if x.size else x
        groups = x.reshape(made.shape)
        some = groups.any(1)
        before, after = (each[:, None] for each in factors(np.abs(groups[some]).max(1, initial=0)))
        scaled = groups[some] * before
        made[some] = worth(e4m3(scaled)) * after
        self.nearest = min(self.nearest, to_a_tie(scaled))
        return made.reshape(x.shape)


def _by_largest(largest: Floats) -> tuple[Floats, Floats]:
    scales = largest / _LARGEST
    return np.float32(1) / scales, scales
