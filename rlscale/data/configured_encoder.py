"""The prompt encoder that a configuration describes: one for all prompts, or one for each source of a mixture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rlscale.config.schema.data_config import DataConfig, MixtureData
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.sample import Prompt
from rlscale.data.tokens.prompt_encoder import PromptEncoder


class MixedEncoder(PromptEncoder):
    """Encodes every prompt by the options of its own source. What needs no prompt is done as by the first of them."""

    def __init__(
        self,
        tokenizer_folder: Path | str,
        config: MixtureData,
        max_prompt_tokens: int,
        chat_template: str | None = None,
        key: str = "data",
    ) -> None:
        """UserError where a source's options cannot be used."""
        first = next(iter(config.sources))

        def section(name: str) -> str:
            return f"{key}.sources.{name}.data"

        super().__init__(tokenizer_folder, config.sources[first].data, max_prompt_tokens, chat_template, section(first))
        self._encoders = {
            name: PromptEncoder(tokenizer_folder, one.data, max_prompt_tokens, chat_template, section(name))
            for name, one in config.sources.items()
        }
        # Engines end a response at the ends of all sources.
        self.may_end |= {encoder.end_of_turn.token for encoder in self._encoders.values()}
        self._longest = {name: one.max_response_tokens for name, one in config.sources.items()}

    @property
    def ends(self) -> dict[str, int]:
        """See PromptEncoder."""
        return {name: encoder.end_of_turn.token for name, encoder in self._encoders.items()}

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
