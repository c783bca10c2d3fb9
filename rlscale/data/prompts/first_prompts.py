"""The first prompts of a source, in every epoch the same ones in the same order.

Such a source does not adapt: one that would give others later is told nothing of what became of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlscale.data.prompts.overlap import PromptText, prompt_hash
from rlscale.data.prompts.sources import PromptSource, RawPrompt, Stream


class FirstPrompts(Stream):
    """As many as are asked for, or all where there are fewer. The source is read once, at its beginning."""

    def __init__(self, source: PromptSource, count: int) -> None:
        self._prompts = source.next(min(count, len(source)))
        items = [[one.id, one.prompt, one.label, one.info] for one in self._prompts]
        told = json.dumps(items, default=_told, sort_keys=True, skipkeys=True)
        super().__init__(len(self._prompts), shuffle=False, seed=0, content=hashlib.sha256(told.encode()).hexdigest())

    def item(self, number: int, index: int) -> RawPrompt:
        """See Stream."""
        return replace(self._prompts[number], index=index)

    def holds(self, prompts: Sequence[PromptText]) -> int:
        """How many of these prompts are among the first ones: no others are trained on."""
        own = {prompt_hash(one.prompt) for one in self._prompts}
        return sum(prompt_hash(prompt) in own for prompt in prompts)


def _told(value: Any) -> str:
    """A label that JSON has no form for, in words that are the same in the next process: no addresses."""
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)
