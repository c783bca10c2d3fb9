"""The token rows that both sides of the trainer's benchmark train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenRows:
    """Rows of random token ids, one behind the other."""

    tokens: NDArray[np.int64]
    """Token ids of all rows."""
    offsets: NDArray[np.int64]
    """Where each row starts in `tokens`, and where the last one ends: [rows + 1]."""

    @classmethod
    def random(cls, rows: int, shortest: int, longest: int, vocabulary: int) -> TokenRows:
        """Rows of lengths drawn evenly from shortest..longest, always the same for the same arguments."""
        draw = np.random.default_rng(0)
        lengths = draw.integers(shortest, longest + 1, rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(draw.integers(0, vocabulary, int(offsets[-1])), offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)
