"""The first prompts of a source, in every epoch the same ones in the same order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from rlscale.data.sources import PromptSource, RawPrompt, Stream


class FirstPrompts(Stream):
    """As many as are asked for, or all where there are fewer. The source is read once, at its beginning."""

    def __init__(self, source: PromptSource, count: int) -> None:
        self._prompts = source.next(min(count, len(source)))
        told = json.dumps([[one.id, one.prompt] for one in self._prompts], default=str)
        super().__init__(len(self._prompts), shuffle=False, seed=0, content=hashlib.sha256(told.encode()).hexdigest())

    def item(self, number: int, index: int) -> RawPrompt:
        """See Stream."""
        return replace(self._prompts[number], index=index)
