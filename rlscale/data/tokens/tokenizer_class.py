"""The tokenizer's class of a usual folder, without transformers' Auto classes, whose import computes for 3 s."""

from __future__ import annotations

from pathlib import Path

from rlscale.families import FAMILIES
from rlscale.families.config_file import CONFIG, read_json
from rlscale.families.family import FolderError

_TOKENIZER_CONFIG = "tokenizer_config.json"
_OF_NO_MODEL = "TokenizersBackend"
"""The class of a tokenizer that is no model's own, as transformers writes it beside no config of a model."""


def known_class(folder: Path) -> str | None:
    """The class that `AutoTokenizer` makes of this folder, from what its model's family knows of tokenizers; None where
    only `AutoTokenizer` knows, and where the folder cannot be read, which it says better."""
    try:
        tokenizer = read_json(folder / _TOKENIZER_CONFIG)
        if not (folder / CONFIG).exists():
            made = tokenizer.get("tokenizer_class") == _OF_NO_MODEL and "auto_map" not in tokenizer
            return _OF_NO_MODEL if made else None
        model = read_json(folder / CONFIG)
    except FolderError:
        return None
    kind, written = model.get("model_type"), tokenizer.get("tokenizer_class")
    if "auto_map" in tokenizer or "auto_map" in model or not (isinstance(kind, str) and isinstance(written, str)):
        return None
    family = FAMILIES.get(kind)
    return None if family is None else family.tokenizer_classes.get(written)
