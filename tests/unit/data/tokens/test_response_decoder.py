"""Responses as text: what transformers makes of their tokens, whether or not it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.end_of_turn import EndOfTurn
from rlscale.data.tokens.quick_tokenizer import QuickTokenizer
from rlscale.data.tokens.response_decoder import ResponseDecoder


def of_bytes() -> PreTrainedTokenizerFast:
    """Every byte is a token, so that random ones are often no text."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<think▁>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


class Shouting(PreTrainedTokenizerFast):
    def _decode(self, *args: Any, **words: Any) -> str:
        return super()._decode(*args, **words).upper()


def shouting() -> PreTrainedTokenizerFast:
    return Shouting(tokenizer_object=of_bytes().backend_tokenizer, eos_token="<|im_end|>")


@pytest.mark.parametrize("tokenizer", [character_tokenizer("0123456789", 64), of_bytes(), shouting()])
def test_text_is_that_of_transformers_with_and_without_special_tokens(tokenizer: Any) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    decode = ResponseDecoder(tokenizer, QuickTokenizer(tokenizer), EndOfTurn(end, "<|im_end|>", "", ""))
    random = np.random.default_rng(0)
    for length in [*range(40), 40]:
        drawn = random.integers(0, len(tokenizer), length)
        plain = drawn[~np.isin(drawn, tokenizer.all_special_ids)]
        for ids in (drawn, plain, np.append(plain, end), np.append(drawn, end)):
            said = ids[:-1] if len(ids) and ids[-1] == end else ids
            text = tokenizer.decode(said.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            raw = tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
            assert decode(ids) == (text, raw)
