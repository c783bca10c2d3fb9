"""What the policy said, from its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.data.end_of_turn import EndOfTurn

_CONCATENATE = frozenset({"ByteLevel", "Fuse"})
"""Decoders of the tokenizers library that write a special token behind a text as they write it alone."""


class ResponseDecoder:
    """Decodes responses by a transformers tokenizer, which is asked but once where that is enough.

    transformers looks at every token before it hands all of them to the tokenizers library, which takes longer than
    decoding them: where it does nothing else the library is called directly.
    """

    def __init__(self, tokenizer: Any, end: EndOfTurn) -> None:
        self._tokenizer, self._end = tokenizer, end.token
        # Added ones too: the tokenizers library knows special tokens that transformers has no name for.
        self._special = frozenset(tokenizer.all_special_ids) | frozenset(tokenizer.added_tokens_decoder)
        self._fast = _plain(tokenizer)
        joined = self._fast is not None and type(self._fast.decoder).__name__ in _CONCATENATE
        self._end_text = self._decoded([end.token], skip=False) if joined else None

    def __call__(self, tokens: NDArray[np.integer[Any]]) -> tuple[str, str]:
        """Text of response tokens (int [m]): without special tokens and end of turn, and with. Not tidied up."""
        ids = tokens.tolist()
        ended = ids[-1:] == [self._end]  # which need not be a special token
        said = ids[:-1] if ended else ids
        text = self._decoded(said, skip=True)
        if self._special.isdisjoint(said):
            if not ended:
                return text, text
            if self._end_text is not None:
                return text, text + self._end_text
        return text, self._decoded(ids, skip=False)

    def _decoded(self, ids: list[int], skip: bool) -> str:
        if self._fast is not None:
            return str(self._fast.decode(ids, skip_special_tokens=skip))
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False))


def _plain(tokenizer: Any) -> Any:
    """The tokenizer of the tokenizers library behind one of transformers that decodes as it does; None: another."""
    from transformers import PreTrainedTokenizerFast

    same = all(
        getattr(type(tokenizer), name, None) is getattr(PreTrainedTokenizerFast, name) for name in ("decode", "_decode")
    )
    return tokenizer.backend_tokenizer if same else None
