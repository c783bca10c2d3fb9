"""A model that judges by a rubric, behind any OpenAI-compatible address."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rlscale.config.errors import UserError
from rlscale.envs.rewards.service_client import ServiceClient
from rlscale.envs.served_models import ServedModel

T = TypeVar("T")


class JudgingModel:
    """Is asked for a verdict until one can be read, `tries` times in all.

    `url`: the base address, such as http://127.0.0.1:30000/v1; without one, `model` is the name of a model in
    `rollout.models`, which the run serves. `rubric`: what is good, in words.
    """

    def __init__(
        self,
        url: str | None,
        model: str,
        rubric: str,
        tries: int,
        max_tokens: int,
        temperature: float,
        timeout_s: float,
        retries: int,
        key_file: str | None,
    ) -> None:
        if not rubric.strip():
            raise UserError("rubric is empty; say in words what a good response is")
        if tries < 1:
            raise UserError(f"tries={tries}: must be at least 1")
        if url is not None:
            address = f"{url.rstrip('/')}/chat/completions"
            self._client = ServiceClient(address, timeout_s=timeout_s, retries=retries, key_file=key_file)
        else:
            if key_file is not None:
                raise UserError(f"key_file={key_file} is not read without url: rollout.models.{model} has its own")
            find = ServedModel(model).place("/v1/chat/completions")
            self._client = ServiceClient.following(find, timeout_s=timeout_s, retries=retries)
        self._rubric, self._tries = rubric, tries
        self._sampling = {"model": model, "max_tokens": max_tokens, "temperature": temperature}

    async def verdict(
        self, system: str, shown: Mapping[str, Any], read: Callable[[str], T | None]
    ) -> tuple[T | None, str]:
        """What `read` finds in an answer behind its thoughts, None if in none, and the end of the last answer.

        RewardFailed if the model cannot be reached.
        """
        asked = [
            {"role": "system", "content": system},
            {"role": "user", "content": f"Rubric:\n{self._rubric}\n\n{_between_marks(shown)}"},
        ]
        said = ""
        for _ in range(self._tries):
            said = _answer_text(await self._client.post({**self._sampling, "messages": asked}))
            if (found := read(said.rpartition("</think>")[2])) is not None:
                return found, said[-100:]
        return None, said[-100:]


def _between_marks(shown: Mapping[str, Any]) -> str:
    """The texts, each between lines that it cannot know, so that it cannot pretend to end. Empty ones are left out."""
    mark = secrets.token_hex(8)
    return "\n\n".join(
        f"{name} {mark}\n{text}\nEND OF {name} {mark}"
        for name, text in shown.items()
        if text is not None and text != ""
    )


def _answer_text(answer: Any) -> str:
    """The text of a chat completion; empty where there is none."""
    try:
        return str(answer["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        return ""
