"""Text to tokens and back by a tokenizer's backend itself, where transformers would only hand on what it is given."""

from __future__ import annotations

from typing import Any

_HANDED_ON = ("__call__", "_encode_plus", "decode", "_decode")
"""The methods of transformers' class for backends that are left out; a class of its own may do more in them."""


_SMALL = 4096
"""Tokens whose texts are kept."""


class QuickTokenizer:
    """The tokens and texts of a transformers tokenizer, without its checks of arguments, which cost more than those."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = _backend_of(tokenizer)
        self._pieces = _pieces_of(self._backend)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """All of the text's tokens, however many. What the tokenizer raises where it refuses the text."""
        ids: list[int]
        if self._backend is None:
            ids = self._tokenizer(text, add_special_tokens=add_special_tokens).input_ids
        else:
            ids = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    @property
    def decoder(self) -> str | None:
        """The kind of the backend's decoder, as `ByteLevel`; None where there is none or the backend is not asked."""
        found = None if self._backend is None else self._backend.decoder
        return None if found is None else type(found).__name__

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """The text of tokens, not tidied up."""
        text: str
        if self._backend is None:
            text = self._tokenizer.decode(
                ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        elif self._pieces is not None:
            pieces = self._pieces[skip_special_tokens]
            try:
                text = "".join(map(pieces.__getitem__, ids))
            except IndexError:  # a token that the tokenizer does not have
                text = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        else:
            text = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text


def _pieces_of(backend: Any) -> tuple[list[str], list[str]] | None:
    """The text of each token, where a text is nothing but those of its tokens one after the other (characters are).

    Once with those of special tokens, once with none for them. None for another tokenizer, or a large one.
    """
    if backend is None or type(backend.decoder).__name__ != "Fuse" or backend.get_vocab_size() > _SMALL:
        return None
    special = {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
    pieces = [backend.id_to_token(token) or "" for token in range(backend.get_vocab_size())]
    return pieces, ["" if token in special else piece for token, piece in enumerate(pieces)]


def _backend_of(tokenizer: Any) -> Any:
    """The backend, set as transformers sets it with every call; None where there is more between it and the caller."""
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or any(
        getattr(kind, name) is not getattr(PreTrainedTokenizerFast, name) for name in _HANDED_ON
    ):
        return None
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend
