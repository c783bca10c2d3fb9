"""The tokens of an answer with their log-probs, listed as SGLang lists them only where somebody looks at the list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

Entry = tuple[float, int, None]


class TokenEntries(Sequence[Entry]):
    """`[log-prob, token, null]` for each token. A client in the same process takes `columns` instead."""

    def __init__(self, tokens: NDArray[np.int32], logprobs: NDArray[np.float64]) -> None:
        """Both [m]."""
        self._tokens, self._logprobs = tokens, logprobs

    def columns(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Tokens and log-probs, [m] each."""
        return self._tokens, self._logprobs.astype(np.float32)

    def tolist(self) -> list[Entry]:
        """All entries, as JSON has them."""
        return list(zip(self._logprobs.tolist(), self._tokens.tolist(), repeat(None)))

    def __len__(self) -> int:
        return len(self._tokens)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.tolist())

    def __getitem__(self, place: Any) -> Any:
        return self.tolist()[place]
