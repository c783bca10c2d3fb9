"""From a raw prompt to tokens: chat template, system prompt, length limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rlscale.config.errors import UserError
from rlscale.config.schema.data import DataConfig
from rlscale.data.sample import Prompt
from rlscale.data.sources import RawPrompt


class PromptEncoder:
    """Encodes prompts with the tokenizer in `tokenizer_folder`.

    `chat_template` (Jinja text) replaces the tokenizer's own. `dropped` counts prompts over `max_prompt_tokens`.
    UserError when the chat template is asked for and there is none, or when a system prompt could not be placed.
    """

    def __init__(
        self,
        tokenizer_folder: Path | str,
        config: DataConfig,
        max_prompt_tokens: int,
        chat_template: str | None = None,
        key: str = "data",
    ) -> None:
        self.tokenizer = load_tokenizer(tokenizer_folder)
        self.dropped = 0
        self._config = config
        self._max = max_prompt_tokens
        self._key = key
        if chat_template is not None:
            self.tokenizer.chat_template = chat_template
        if config.apply_chat_template and not self.tokenizer.chat_template:
            raise UserError(
                f"the tokenizer in {tokenizer_folder} has no chat template; set {key}.apply_chat_template=false, "
                "or give one as model.chat_template"
            )
        if config.system_prompt is not None and not config.apply_chat_template:
            raise UserError(f"{key}.system_prompt needs the chat template; set {key}.apply_chat_template=true")

    def encode(self, raw: RawPrompt) -> Prompt | None:
        """The prompt with its tokens, or None (counted) if it is longer than allowed. UserError if it is unusable."""
        messages = self._messages(raw)
        text = self._text(raw, messages)
        # The template writes the special tokens itself; without it the tokenizer adds what it wants at the start.
        tokens = self.tokenizer(text, add_special_tokens=not self._config.apply_chat_template).input_ids
        if not tokens:
            raise UserError(f"{self._key}: prompt {raw.id} has no tokens")
        if self._has_unknown(text, tokens):
            raise UserError(f"{self._key}: prompt {raw.id} holds characters that the tokenizer lacks: {text[:80]!r}")
        if len(tokens) > self._max:
            self.dropped += 1
            return None
        return Prompt(raw.index, raw.id, np.array(tokens, np.int32), raw.label, raw.info, text, messages)

    def encode_response(self, text: str) -> np.ndarray:
        """Tokens of a response given as text, with the end token, int32 [m]."""
        tokens = self.tokenizer(text, add_special_tokens=False).input_ids
        if self._has_unknown(text, tokens):
            raise UserError(f"{self._key}: the label {text[:80]!r} holds characters that the tokenizer lacks")
        return np.array([*tokens, self.tokenizer.eos_token_id], np.int32)

    def decode(self, tokens: np.ndarray) -> tuple[str, str]:
        """Text of response tokens (int [m]): special tokens left out, and with them. Nothing else is tidied up."""
        ids = tokens.tolist()
        text, raw = (
            self.tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            for skip in (True, False)
        )
        return text, raw

    def _messages(self, raw: RawPrompt) -> list[dict[str, Any]]:
        """What the prompt's text is made of, the system prompt included."""
        messages = [{"role": "user", "content": raw.prompt}] if isinstance(raw.prompt, str) else list(raw.prompt)
        if self._config.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self._config.system_prompt})
        return messages

    def _text(self, raw: RawPrompt, messages: list[dict[str, Any]]) -> str:
        if not self._config.apply_chat_template:
            if not isinstance(raw.prompt, str):
                raise UserError(
                    f"{self._key}: prompt {raw.id} is a list of messages, which needs the chat template; "
                    f"set {self._key}.apply_chat_template=true"
                )
            return raw.prompt
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise UserError(f"{self._key}: the chat template fails on prompt {raw.id}: {error}") from error

    def _has_unknown(self, text: str, tokens: list[int]) -> bool:
        unknown = self.tokenizer.unk_token_id
        return unknown is not None and unknown in tokens and self.tokenizer.unk_token not in text


def load_tokenizer(folder: Path | str) -> Any:
    """The transformers tokenizer in a local folder. UserError if it cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise UserError(f"{folder}: its tokenizer cannot be read ({str(error).splitlines()[0][:200]})") from error
