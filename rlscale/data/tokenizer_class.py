"""The tokenizer's class of a usual folder, without transformers' Auto classes, whose import computes for 3 s.

`AutoTokenizer` looks at the model's type in `config.json` and at the class in `tokenizer_config.json`; for the pairs
below its choice is known. Everything else is left to it.
"""

from __future__ import annotations

import json
from pathlib import Path

_QWEN3 = {
    "Qwen2Tokenizer": "Qwen2Tokenizer",
    "Qwen2TokenizerFast": "Qwen2Tokenizer",
    "PreTrainedTokenizerFast": "TokenizersBackend",
    "TokenizersBackend": "TokenizersBackend",
}

CHOSEN = {"qwen3": _QWEN3, "qwen3_moe": _QWEN3}
"""By model type and written class, the class of transformers that `AutoTokenizer` makes."""


def known_class(folder: Path) -> str | None:
    """The class that `AutoTokenizer` makes of this folder; None where only it knows."""
    try:
        model, tokenizer = (
            json.loads((folder / name).read_text(encoding="utf-8")) for name in ("config.json", "tokenizer_config.json")
        )
        if "auto_map" in tokenizer or "auto_map" in model:
            return None
        return CHOSEN.get(model["model_type"], {}).get(tokenizer["tokenizer_class"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not as it ought to be
        return None
