"""Stored tokens as text again, special ones included, by the tokenizer that they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.data.tokens.prompt_encoder import load_tokenizer

Decode = Callable[[Sequence[int]], str]


def token_decoder(folder: str) -> Decode:
    """What decodes ids by the tokenizer in the folder. UserError if it cannot be read."""
    from tokenizers import Tokenizer

    if not folder:
        raise UserError("the stored rollouts do not name it")
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not there")
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        slow = load_tokenizer(folder)
        return lambda ids: str(slow.decode(list(ids), clean_up_tokenization_spaces=False))
    try:  # of this file alone: it spares the import of transformers
        fast = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no kind of its own
        raise UserError(f"{file} cannot be read ({error})") from error
    return lambda ids: str(fast.decode(list(ids), skip_special_tokens=False))
