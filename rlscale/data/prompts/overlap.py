"""Which prompts two sources have in common: an evaluation on what was trained on says nothing about new problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

PromptText = str | list[dict[str, Any]]
"""A prompt as a source gives it: text or chat messages."""


@runtime_checkable
class KnowsPrompts(Protocol):
    """A source that can tell whether a prompt is one of its own."""

    def holds(self, prompts: Sequence[PromptText]) -> int:
        """How many of these prompts are among its own, in whatever form and with whatever label."""


def prompt_hash(prompt: PromptText) -> int:
    """64 bits that two prompts share when they ask the same: space around the text, system messages and a last message
    by the assistant (an answer) left out."""
    text = plain_text(prompt)
    if text is None:
        text = json.dumps([(role, content.strip()) for role, content in _turns(prompt)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def plain_text(prompt: PromptText) -> str | None:
    """The text of a prompt that is one turn by the user, None for a conversation."""
    if isinstance(prompt, str):
        return prompt.strip()
    turns = _turns(prompt)
    return turns[0][1].strip() if len(turns) == 1 and turns[0][0] == "user" else None


def _turns(prompt: PromptText) -> list[tuple[str, str]]:
    if isinstance(prompt, str):
        return [("user", prompt)]
    turns = [(message["role"], message["content"]) for message in prompt if message["role"] != "system"]
    return turns[:-1] if turns and turns[-1][0] == "assistant" else turns
