"""Which prompts an engine has read before: sequences by their hash, the one longest unused forgotten first.

Found are whole sequences: the prompt that another sample of the group has, and the tokens that a request had when it
was cut off. A turn that goes on behind an earlier one is read anew, where a real engine would find its beginning.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray


class PrefixCache:
    """Holds at most as many tokens as it is told to."""

    def __init__(self) -> None:
        self._lengths: OrderedDict[int, int] = OrderedDict()
        self._tokens = 0

    def cached(self, tokens: NDArray[np.int32]) -> int:
        """Tokens of a sequence that need not be read; the last one always must be, to know what follows it."""
        key = hash(tokens.tobytes())
        if key not in self._lengths:
            return 0
        self._lengths.move_to_end(key)
        return max(0, len(tokens) - 1)

    def keep(self, tokens: NDArray[np.int32], room: float) -> None:
        """Remember a sequence, and forget others until all fit into `room` tokens."""
        key = hash(tokens.tobytes())
        self._tokens += len(tokens) - self._lengths.pop(key, 0)
        self._lengths[key] = len(tokens)
        while self._tokens > room and self._lengths:
            self._tokens -= self._lengths.popitem(last=False)[1]

    def flush(self) -> None:
        """Forget everything."""
        self._lengths.clear()
        self._tokens = 0
