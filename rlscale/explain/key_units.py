"""What a number counts: said by the end of its key's name, or by the words in which the schema tells its meaning.

A key of the schema that has a unit carries it in its name (`_s`, `_gb`, `_tokens`), or is a count, whose meaning begins
with what is counted ("Iterations between evaluations ...").
"""

from __future__ import annotations

import re

_ENDS = {
    "s": "seconds",
    "gb": "gigabytes",
    "mb": "megabytes",
    "tokens": "tokens",
    "tflops": "1e12 FLOPs/s",
    "rate": "a share of 1",
    "share": "a share of 1",
}
"""Ends of names."""
_SAID = re.compile(r"\bin (tokens|seconds|bytes)\b|^Share of\b")
_KIND = r"(?:(?:Optimizer|Forward|CPU|Trainer|Newest|Model|Number of|Of [^,]*,) |\w+-parallel )?"
_COUNTED = re.compile(_KIND + r"(?!Numbers)([A-Za-z]+s)\b(?!')")
"""The noun that a meaning begins with: "Optimizer steps of ...", "Tensor-parallel ranks; ..."."""


def unit(name: str, type_words: str, meaning: str) -> str | None:
    """The unit of a key by its dotted name, its type in words and its meaning; None for what has none.

    Only integers count: of other numbers the unit is in the name, or in the meaning as "in tokens" or "Share of".
    """
    if not type_words.startswith(("an integer", "a number")):
        return None
    if (end := name.rpartition(".")[2].rpartition("_")[2]) in _ENDS:
        return _ENDS[end]
    if (said := _SAID.search(meaning.partition(";")[0])) is not None:
        return said[1] or "a share of 1"
    countable = type_words.startswith("an integer") or meaning.startswith("Number of")
    counted = _COUNTED.match(meaning) if countable else None
    return None if counted is None else counted[1].lower().replace("gpus", "GPUs")
