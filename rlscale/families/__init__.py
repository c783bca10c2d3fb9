"""What a Hugging Face model folder says: the keys of its config.json and the tensors of its files, family by family.

A folder is understood whole or refused. One file per family in `known/` holds its tables; the other modules read a
folder by them: `config_file` (config.json), `tensors` (which tensors a model has), `weight_files` (headers of
safetensors files), `fit` (whether folder and config agree). Neither torch nor transformers is needed, so that a folder
is known before anything is started.
"""

from collections.abc import Mapping
from typing import Any

from rlscale.families.family import MOST_SEEN, Family, FolderError
from rlscale.families.known import families

__all__ = ["FAMILIES", "Family", "FolderError", "known_name", "longest_exact"]

FAMILIES: dict[str, Family] = {family.model_type: family for family in families()}
"""The families that the trainer knows, by Hugging Face's model_type."""

_KNOWN_NAMES = {other: family.model_type for family in FAMILIES.values() for other in family.other_names}


def known_name(model_type: str) -> str:
    """The model_type under which transformers and SGLang know an architecture; the given one where it has one name."""
    return _KNOWN_NAMES.get(model_type, model_type)


def longest_exact(config: Mapping[str, Any]) -> int | None:
    """Tokens of the longest sequence that a model with this completed config is computed for; None where any is.

    Sparse attention is, as long as it sees all tokens.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    most = config.get(MOST_SEEN) if family is not None and family.sparse else None
    return most if isinstance(most, int) else None
