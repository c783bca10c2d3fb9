"""The tensors of a model as its folder holds them: numbers, or codes and scales in tensors of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlscale.families.config_file import CONFIG, read_config
from rlscale.families.family import FolderError
from rlscale.families.quantisation import SECTION, Quantisation, quantisation_of
from rlscale.families.weight_files import TensorEntry, tensors_of

_SCALE_TYPES = ("F32", "BF16", "F16")
_ACTIVATIONS = (".input_scale", ".activation_scale")
"""Scales of quantised activations, which weights that are read as numbers have no use for."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the model as the folder holds it."""

    entry: TensorEntry
    """Its numbers, or its codes."""
    shape: tuple[int, ...]
    """The shape of what is read."""
    codes: str = ""
    """The name of its codes; empty for a tensor that holds numbers."""
    scale: str = ""
    """The name of their scales."""
    said_shape: str = ""
    """The name of the tensor that says the shape of packed codes; empty for FP8."""


def quantisation_of_folder(folder: Path) -> Quantisation | None:
    """That of the folder's own config.json; None where it has none. FolderError for a form that is not read."""
    return quantisation_of(read_config(folder)) if (folder / CONFIG).is_file() else None


def stored_in(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of the model in a folder, by name. FolderError for files that are missing or contradict."""
    return stored_tensors(tensors_of(folder), quantisation_of_folder(folder))


def stored_tensors(found: Mapping[str, TensorEntry], quantisation: Quantisation | None) -> dict[str, StoredTensor]:
    """The tensors of the model that the tensors of a folder's files form, by name.

    FolderError for codes without scales, scales of another shape, and a quantisation that no tensor has.
    """
    if quantisation is None:
        return {name: StoredTensor(entry, entry.shape) for name, entry in found.items()}
    stored: dict[str, StoredTensor] = {}
    used: set[str] = set()
    for name, entry in found.items():
        stem = _stem(name, entry, quantisation)
        if stem is None:
            continue
        weight = _quantised(name, stem, found, quantisation)
        used |= {name, weight.scale, weight.said_shape, *(stem + ending for ending in _ACTIVATIONS)}
        stored[f"{stem}.weight"] = weight
    if not stored:
        raise FolderError(
            f"{SECTION} says that its weights are quantised, but none of its tensors is; remove that section, or fetch "
            "the weights again"
        )
    twice = [name for name in stored if name in found and name not in used]
    if twice:
        raise FolderError(f"{twice[0]} is there as it is and as codes; remove the one that is out of date")
    return {**stored, **{name: StoredTensor(entry, entry.shape) for name, entry in found.items() if name not in used}}


def _stem(name: str, entry: TensorEntry, quantisation: Quantisation) -> str | None:
    """The name of the module whose weight a tensor holds as codes; None for every other tensor."""
    ending, dtype = (".weight", "F8_E4M3") if quantisation.bits is None else (".weight_packed", "I32")
    return name.removesuffix(ending) if name.endswith(ending) and entry.dtype == dtype else None


def _quantised(name: str, stem: str, found: Mapping[str, TensorEntry], quantisation: Quantisation) -> StoredTensor:
    """The weight whose codes have that name."""
    codes = found[name]
    if len(codes.shape) != 2:
        raise FolderError(f"{name} has shape {list(codes.shape)}; codes of a matrix are expected")
    scale = next((found_name for found_name in _scale_names(stem, quantisation) if found_name in found), None)
    if scale is None:
        raise FolderError(
            f"{name} is quantised, and its scale {_scale_names(stem, quantisation)[0]} is in none of the folder's "
            "files; fetch them again"
        )
    shape = (codes.shape[0], codes.shape[1] * quantisation.per_word)
    grid = quantisation.grid(shape)
    allowed = [grid, *([grid[:1]] if grid[1] == 1 else []), *([()] if grid == (1, 1) else [])]
    if found[scale].shape not in allowed:
        raise FolderError(
            f"{scale} has shape {list(found[scale].shape)} where {SECTION} asks for {list(grid)} scales of a weight of "
            f"{list(shape)}"
        )
    if found[scale].dtype not in _SCALE_TYPES:
        raise FolderError(f"{scale} is of type {found[scale].dtype}; scales in {', '.join(_SCALE_TYPES)} are read")
    said = "" if quantisation.bits is None else f"{stem}.weight_shape"
    if said and said not in found:
        raise FolderError(f"{name} is packed, and {said} is in none of the folder's files; fetch them again")
    return StoredTensor(codes, shape, name, scale, said)


def _scale_names(stem: str, quantisation: Quantisation) -> tuple[str, ...]:
    both = (f"{stem}.weight_scale_inv", f"{stem}.weight_scale")
    return both if quantisation.bits is None else both[1:]
