"""What a Hugging Face model folder says: the keys of its config.json and the tensors of its files, family by family.

A folder is understood whole or refused. One file per family in `known/` holds its tables; the other modules read a
folder by them: `config_file` (config.json), `tensors` (which tensors a model has), `weight_files` (headers of
safetensors files), `fit` (whether folder and config agree). Neither torch nor transformers is needed, so that a folder
is known before anything is started.
"""

from collections.abc import Mapping
from typing import Any

from rlscale.families.family import Family, FolderError, Reach
from rlscale.families.known import families

__all__ = ["FAMILIES", "Family", "FolderError", "known_name", "reach_of"]

FAMILIES: dict[str, Family] = {family.model_type: family for family in families()}
"""The families that the trainer knows, by Hugging Face's model_type."""

_KNOWN_NAMES = {other: family.model_type for family in FAMILIES.values() for other in family.other_names}


def known_name(model_type: str) -> str:
    """The model_type under which transformers and SGLang know an architecture; the given one where it has one name."""
    return _KNOWN_NAMES.get(model_type, model_type)


def reach_of(config: Mapping[str, Any]) -> Reach | None:
    """How many tokens the attention of a model with this completed config sees at most; None where it sees all."""
    reach = FAMILIES[config["model_type"]].reach
    return None if reach is None else reach(config)
