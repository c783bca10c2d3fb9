"""The tokenizer's backend asked directly gives what transformers gives."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.quick_tokenizer import QuickTokenizer

TEXTS = (
    "",
    " a b  c\n",
    "<|im_start|>user\nhi<|im_end|>\n",
    "größer ∑ 數 \U0001f600",
    "I 'm . here , <tool>",
    "x" * 5000,
)


def byte_level() -> PreTrainedTokenizerFast:
    """Bytes and a few merges; begins texts with a token of its own, and was saved with truncation and padding."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "ab", "Ġa"])}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", backend.token_to_id("<s>"))])
    backend.enable_truncation(3)
    backend.enable_padding(length=3)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", clean_up_tokenization_spaces=True)


@pytest.mark.parametrize("made", [byte_level, lambda: character_tokenizer("abcx <>|_'.,", 64)])
def test_tokens_and_texts_are_those_of_transformers(made: Any) -> None:
    tokenizer, quick = made(), QuickTokenizer(made())
    assert quick._backend is not None
    for text in TEXTS:
        for special in (False, True):
            ids = tokenizer(text, add_special_tokens=special).input_ids
            assert quick.encode(text, special) == ids
            for part in (ids, ids[:-1], ids[1:3]):
                expected = tokenizer.decode(part, skip_special_tokens=special, clean_up_tokenization_spaces=False)
                assert quick.decode(part, special) == expected


@pytest.mark.parametrize("special", [False, True])
def test_every_token_of_one_per_character_has_its_text_and_an_unknown_one_none(special: bool) -> None:
    tokenizer = character_tokenizer("abcx <>|_'.,", 64)
    ids = [*range(len(tokenizer)), 7, 500, 5]
    expected = tokenizer.decode(ids, skip_special_tokens=special, clean_up_tokenization_spaces=False)
    assert QuickTokenizer(tokenizer).decode(ids, special) == expected
    assert QuickTokenizer(tokenizer).decode(ids[:-2], special) == expected[:-1]


def test_a_class_that_does_more_is_asked_itself() -> None:
    class Shouting(PreTrainedTokenizerFast):
        def _decode(self, *given: Any, **more: Any) -> str:
            return super()._decode(*given, **more).upper()

    quick = QuickTokenizer(Shouting(tokenizer_object=byte_level().backend_tokenizer))
    assert quick.decode(quick.encode("ab a", False), False) == "AB A"
