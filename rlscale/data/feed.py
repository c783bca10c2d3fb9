"""Encoded prompts one after another: a source, an encoder, and the order between them."""

from __future__ import annotations

from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.chat import PromptEncoder
from rlscale.data.sample import Prompt
from rlscale.data.sources import PromptSource


class PromptFeed:
    """Prompts of a source that fit the length limit."""

    def __init__(self, source: PromptSource, encoder: PromptEncoder, key: str = "data") -> None:
        self._source = source
        self._encoder = encoder
        self._key = key

    @property
    def dropped(self) -> int:
        """Prompts left out so far because they were too long."""
        return self._encoder.dropped

    def take(self, n: int) -> list[Prompt]:
        """The next n prompts. UserError when a whole epoch holds none that fits."""
        prompts: list[Prompt] = []
        fruitless = 0
        while len(prompts) < n:
            raws = self._source.next(n - len(prompts))
            fitting = [prompt for prompt in map(self._encoder.encode, raws) if prompt is not None]
            prompts += fitting
            fruitless = 0 if fitting else fruitless + len(raws)
            if fruitless >= len(self._source):
                raise UserError(
                    f"{self._key}: none of the {len(self._source)} prompts fits; raise rollout.max_prompt_tokens"
                )
        return prompts

    def state_dict(self) -> dict[str, Any]:
        """Position of the source and the count of dropped prompts."""
        return {"source": self._source.state_dict(), "dropped": self._encoder.dropped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last prompt taken when the state was saved."""
        self._source.load_state_dict(state["source"])
        self._encoder.dropped = int(state["dropped"])
