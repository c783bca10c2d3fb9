"""Scores by a reward model that the run serves beside the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.prompts.messages import Message
from rlscale.data.tokens.prompt_encoder import load_tokenizer
from rlscale.envs.score import Failed
from rlscale.envs.served_models import ServedModel


class RewardModel:
    """The number that a model with a head for sequences (`Qwen3ForSequenceClassification`, ...) gives a conversation.

    `model`: its name in `rollout.models`. It sees the prompt's messages and the response as its own chat template
    writes them. What it says is multiplied by `scale`.
    """

    def __init__(self, model: str, scale: float = 1.0, timeout_s: float = 60.0, retries: int = 3) -> None:
        self._model, self._scale, self._timeout_s, self._retries = ServedModel(model), scale, timeout_s, retries

    async def __call__(
        self, response: str, label: Any, info: dict[str, Any], messages: Sequence[Message] = ()
    ) -> float | Failed:
        """Its score. Failed where it is not one number, RewardFailed if the model cannot be reached."""
        conversation = [*messages, {"role": "assistant", "content": response}]
        tokens = await asyncio.to_thread(self._tokens, conversation)
        body = {"model": self._model.name, "input": tokens}
        answer = await self._model.post("/v1/embeddings", body, self._timeout_s, self._retries)
        values = answer["data"][0]["embedding"]
        if len(values) != 1:
            return Failed(f"{self._model.name} gives {len(values)} numbers and not one: it is no reward model")
        return self._scale * float(values[0])

    def _tokens(self, conversation: Sequence[Any]) -> list[int]:
        tokens: list[int] = self._tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
        return tokens

    @cached_property
    def _tokenizer(self) -> Any:
        folder = self._model.address().folder
        if not folder:
            raise UserError(
                f"rollout.models.{self._model.name}.path: nothing says which tokenizer the reward model reads with; "
                "give the folder that its engines serve"
            )
        return load_tokenizer(folder)
