"""Reward models of Qwen in SGLang: a head without a bias in the folder has none in the engine.

SGLang (0.5.19) gives the heads of `Qwen2ForSequenceClassification` and `Qwen3ForSequenceClassification` a bias.
Folders of transformers hold none, so it stays as it was drawn at random, and every score is off by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def begin_at_zero(module: Any) -> None:
    """A module of `ADAPTATIONS`: the bias is zero until a folder brings one."""
    for model in module.EntryClass if isinstance(module.EntryClass, list) else [module.EntryClass]:
        _adapt(model)


def _adapt(model: Any) -> None:
    made = model.__init__

    def init(self: Any, *args: Any, **keywords: Any) -> None:
        made(self, *args, **keywords)
        if self.score.bias is not None:
            self.score.bias.data.zero_()

    model.__init__ = init


ADAPTATIONS: dict[str, Callable[[Any], None]] = {
    "sglang.srt.models.qwen2_classification": begin_at_zero,
    "sglang.srt.models.qwen3_classification": begin_at_zero,
}
"""Module -> what is changed in it right after its import, on every device."""
