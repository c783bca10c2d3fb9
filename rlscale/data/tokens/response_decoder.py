"""What the policy said, from its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.data.tokens.end_of_turn import EndOfTurn
from rlscale.data.tokens.quick_tokenizer import QuickTokenizer

_CONCATENATE = frozenset({"ByteLevel", "Fuse"})
"""Decoders of the tokenizers library that write a special token behind a text as they write it alone."""


class ResponseDecoder:
    """Decodes responses by a tokenizer that is asked but once where that is enough."""

    def __init__(self, tokenizer: Any, quick: QuickTokenizer, end: EndOfTurn) -> None:
        """`quick` is of the transformers tokenizer."""
        self._quick, self._end = quick, end.token
        # Added ones too: the tokenizers library knows special tokens that transformers has no name for.
        self._special = frozenset(tokenizer.all_special_ids) | frozenset(tokenizer.added_tokens_decoder)
        joined = quick.decoder in _CONCATENATE
        self._end_text = quick.decode([end.token], skip_special_tokens=False) if joined else None

    def __call__(self, tokens: NDArray[np.integer[Any]]) -> tuple[str, str]:
        """Text of response tokens (int [m]): without special tokens and end of turn, and with. Not tidied up."""
        ids = tokens.tolist()
        ended = ids[-1:] == [self._end]  # which need not be a special token
        said = ids[:-1] if ended else ids
        text = self._quick.decode(said, skip_special_tokens=True)
        if self._special.isdisjoint(said):
            if not ended:
                return text, text
            if self._end_text is not None:
                return text, text + self._end_text
        return text, self._quick.decode(ids, skip_special_tokens=False)
