"""The prompt encoder that a configuration describes: one for all prompts, or one for each source of a mixture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import DataConfig, MixtureData
from rlscale.data.prompt_encoder import PromptEncoder
from rlscale.data.sample import Prompt
from rlscale.data.sources import RawPrompt


class MixedEncoder(PromptEncoder):
    """Encodes every prompt by the options of its own source. What a response ends with is the same for all."""

    def __init__(
        self,
        tokenizer_folder: Path | str,
        config: MixtureData,
        max_prompt_tokens: int,
        chat_template: str | None = None,
        key: str = "data",
    ) -> None:
        """UserError where a source's options cannot be used, or two sources end a response otherwise."""
        first = next(iter(config.sources))

        def section(name: str) -> str:
            return f"{key}.sources.{name}.data"

        # What needs no prompt, as decoding, is done as the first source does it.
        super().__init__(tokenizer_folder, config.sources[first].data, max_prompt_tokens, chat_template, section(first))
        self._encoders = {
            name: PromptEncoder(tokenizer_folder, one.data, max_prompt_tokens, chat_template, section(name))
            for name, one in config.sources.items()
        }
        self._longest = {name: one.max_response_tokens for name, one in config.sources.items()}
        for name, encoder in self._encoders.items():
            ours, theirs = self.end_of_turn, encoder.end_of_turn
            if (ours.token, ours.before) != (theirs.token, theirs.before):
                raise UserError(
                    f"{section(first)} and {section(name)} end a response otherwise ({ours}; {theirs}); give them the "
                    "same apply_chat_template and chat_template_kwargs"
                )

    def encode(self, raw: RawPrompt) -> Prompt | None:
        """The prompt by its source's options, or None (counted) if it is too long. BadPrompt if it is unusable."""
        prompt = self._encoders[raw.source].encode(raw)
        if prompt is None:
            self.dropped += 1
            return None
        return dataclasses.replace(prompt, max_response_tokens=self._longest[raw.source])

    def of(self, prompt: Prompt) -> PromptEncoder:
        """The encoder of the prompt's source."""
        return self._encoders[prompt.source]


def build_encoder(
    tokenizer_folder: Path | str,
    config: DataConfig,
    max_prompt_tokens: int,
    chat_template: str | None = None,
    key: str = "data",
) -> PromptEncoder:
    """The encoder of a section `key`. UserError where the chat template cannot be used."""
    if isinstance(config, MixtureData):
        return MixedEncoder(tokenizer_folder, config, max_prompt_tokens, chat_template, key)
    return PromptEncoder(tokenizer_folder, config, max_prompt_tokens, chat_template, key)
