"""Quantised activations once more, in NumPy: what each kernel's codes are worth, and how near it came to a tie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.unit.weights.encode.numpy_encodings import Floats, e4m3, to_a_tie, worth

_LARGEST = np.float32(448)
_Factors = Callable[[np.float32], tuple[np.float32, np.float32]]
"""Largest magnitude of a part -> what its numbers are multiplied by before they become codes, and codes after."""


@dataclass
class Roundings:
    """Rounds, and remembers how near a number was to one that either of two codes is as near to.

    Where it was very near, another order of a sum makes the other code of it, and what is computed with it differs.
    """

    nearest: float = field(default=np.inf)
    """Of numbers the largest of which became 448."""

    def by_group(self, x: Floats, columns: int) -> Floats:
        def factors(largest: np.float32) -> tuple[np.float32, np.float32]:
            largest = max(largest, np.float32(1e-10))
            return _LARGEST / largest, largest * (np.float32(1) / _LARGEST)

        return self._each(x, columns, factors)

    def by_token(self, x: Floats) -> Floats:
        return self._each(x, x.shape[-1], _by_largest)

    def by_batch(self, x: Floats) -> Floats:
        return self._each(x.reshape(1, -1), x.size, _by_largest).reshape(x.shape)

    def by_power_of_two(self, x: Floats, columns: int) -> Floats:
        def factors(largest: np.float32) -> tuple[np.float32, np.float32]:
            exponent = -126
            while largest / np.float64(2.0**exponent) > 448:
                exponent += 1
            return np.float32(2.0**-exponent), np.float32(2.0**exponent)

        return self._each(x, columns, factors)

    def _each(self, x: Floats, columns: int, factors: _Factors) -> Floats:
        made = np.zeros_like(x)
        for row in range(x.shape[0]):
            for first in range(0, x.shape[1], columns):
                at = row, slice(first, first + columns)
                if not x[at].any():
                    continue
                before, after = factors(np.abs(x[at]).max())
                made[at] = worth(e4m3(x[at] * before)) * after
                self.nearest = min(self.nearest, to_a_tie(x[at] * before))
        return made


def _by_largest(largest: np.float32) -> tuple[np.float32, np.float32]:
    scale = largest / _LARGEST
    return np.float32(1) / scale, scale
