"""A tokenizer with one token per character, for the small models that the project makes itself.

Its chat template is short in tokens, because for a tiny model every token costs time: what the user says stands bare,
one `<|im_start|>` begins the assistant's turn, `<|im_end|>` ends it (and a system message). So "47+38=" becomes the
seven tokens `47+38=<|im_start|>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 0 to 3; `<|im_end|>` ends a response, `<|endoftext|>` also stands for characters that the tokenizer lacks."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|im_start|>{% endif %}"
    "{{ message.content }}"
    "{% if message.role != 'user' %}<|im_end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def vocabulary_size(characters: str, multiple: int = 16) -> int:
    """Rows of the embedding: tokens rounded up, so that tensor parallelism can divide them."""
    return -(-(len(SPECIAL_TOKENS) + len(characters)) // multiple) * multiple


def character_tokenizer(characters: str, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer for these characters, their ids following the special tokens in the given order.

    ValueError if a character is given twice.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    if len(set(characters)) != len(characters):
        raise ValueError(f"characters {characters!r} holds a character twice")
    vocabulary = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *characters))}
    # BPE without merges is one token per character.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<|endoftext|>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
