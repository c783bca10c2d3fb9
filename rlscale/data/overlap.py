"""Which prompts two sources have in common: an evaluation on what was trained on says nothing about new problems."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class HashedPrompts(Protocol):
    """A source that knows all of its prompts."""

    def prompt_hashes(self) -> NDArray[np.uint64]:
        """A hash of each prompt's text (`prompt_hash`), whatever its label."""


def prompt_hash(prompt: str | list[dict[str, Any]]) -> int:
    """64 bits that two prompts share when they ask the same: space around the text and system messages left out."""
    if isinstance(prompt, str):
        text = prompt.strip()
    else:
        turns = [(m["role"], m["content"].strip()) for m in prompt if m["role"] != "system"]
        text = turns[0][1] if len(turns) == 1 and turns[0][0] == "user" else json.dumps(turns)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def shared_prompts(evaluated: HashedPrompts, trained: HashedPrompts) -> int:
    """How many of the prompts that are evaluated are trained on as well."""
    return int(np.isin(evaluated.prompt_hashes(), trained.prompt_hashes()).sum())
