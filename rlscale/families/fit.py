"""Do the tensors of a folder and its config.json say the same model: every name, every shape, and numbers to read.

Some tensors have no place in the model and are left out on purpose: rotary frequencies that older versions of
transformers saved (`rotary_emb.inv_freq`, computed from `rope_theta`), and `lm_head.weight` where a tied model's equals
the embedding, or of a critic, whose head is its own. Layers that predict further tokens, and tensors that are carried,
stay as they are in the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscale.families import FAMILIES
from rlscale.families.family import FolderError, Head
from rlscale.families.multi_token_prediction import beginning_of, copies
from rlscale.families.quantisation import GIVE_FLOATS
from rlscale.families.stored_tensors import StoredTensor, stored_in
from rlscale.families.tensors import EMBEDDING, LANGUAGE_HEAD, carried_tensors, expected_tensors, is_kept
from rlscale.families.weight_files import same_bytes

_READABLE = ("F32", "F16", "BF16")

_OF_QUANTISATION = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files beside config.json in which tools say that weights are quantised."""

_ADAPTER = "adapter_config.json"


def check_weights(folder: Path, config: Mapping[str, Any], head: Head, *, mtp: bool = False) -> None:
    """Check the files of a folder against its completed config. Reads headers only, but for a tied model's own head.

    `mtp`: whether the layer that predicts a token further is part of the model; then its copies of embedding and head
    are read, too, and must be the model's.
    FolderError, without the folder's name, for the first thing that is wrong.
    """
    for name in _OF_QUANTISATION:
        if (folder / name).is_file():
            raise FolderError(f"{name} says that its weights are quantised; {GIVE_FLOATS}")
    if (folder / _ADAPTER).is_file():
        raise FolderError(f"{_ADAPTER} says that it is an adapter of another model; merge it into the model first")
    found = stored_in(folder)
    _are_floats(found)
    expected = expected_tensors(config, head, most=2 * len(found) + 100, mtp=mtp) | carried_tensors(config)
    missing = [name for name, (_, optional) in expected.items() if not optional and name not in found]
    if missing and all(name.startswith(beginning_of(FAMILIES[config["model_type"]], config)) for name in missing):
        raise FolderError(
            f"has no tensor {_first(missing)}, which a trained layer that predicts a token further has; set "
            "trainer.mtp=frozen"
        )
    if missing:
        raise FolderError(
            f"has no tensor {_first(missing)}, which a model of its config.json has; are its config.json and weights "
            "of the same model?"
        )
    _have_a_place(found, expected, config, head)
    if mtp:
        _are_copies(found, config)
        _is_one_layer(found, expected, config)
    for name, (shape, _) in expected.items():
        if name in found and found[name].shape != shape:
            raise FolderError(
                f"{name} has shape {list(found[name].shape)} in {found[name].entry.file.name} where config.json asks "
                f"for {list(shape)}"
            )


def _are_floats(found: Mapping[str, StoredTensor]) -> None:
    numbers = {name: tensor.entry.dtype for name, tensor in found.items() if not tensor.codes}
    others = [name for name, dtype in numbers.items() if dtype not in _READABLE and not _is_rotary(name)]
    if others:
        types = sorted({numbers[name] for name in others})
        raise FolderError(
            f"{len(others)} of {len(found)} tensors are of type {', '.join(types)} (first {others[0]}), so its weights "
            f"are quantised or are not those of a model; {GIVE_FLOATS}"
        )


def _have_a_place(
    found: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[tuple[int, ...], bool]],
    config: Mapping[str, Any],
    head: Head,
) -> None:
    extra = [name for name in found if name not in expected and not _is_rotary(name) and not is_kept(name, config)]
    if LANGUAGE_HEAD in extra and head is Head.value:
        extra.remove(LANGUAGE_HEAD)
    elif LANGUAGE_HEAD in extra and EMBEDDING in found:
        if not same_bytes(found[LANGUAGE_HEAD].entry, found[EMBEDDING].entry):
            raise FolderError(
                f"config.json says tie_word_embeddings=true, but {LANGUAGE_HEAD} is not {EMBEDDING}; set it to false "
                f"there, or remove {LANGUAGE_HEAD}"
            )
        extra.remove(LANGUAGE_HEAD)
    if extra:
        raise FolderError(
            f"{len(extra)} of {len(found)} tensors have no place in a {config['model_type']} of its config.json: "
            f"{_first(extra)}"
        )


def _are_copies(found: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> None:
    for name, of_model in copies(config).items():
        if name in found and not same_bytes(found[name].entry, found[of_model].entry):
            raise FolderError(
                f"{name} is not {of_model}, which a trained layer that predicts a token further shares with the model; "
                "set trainer.mtp=frozen"
            )


def _is_one_layer(found: Mapping[str, StoredTensor], expected: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Of a module of its own config.json does not say how many layers it has."""
    module = FAMILIES[config["model_type"]].kept
    if module is not None and (more := [name for name in found if name.startswith(module) and name not in expected]):
        raise FolderError(
            f"{_first(more)}: has no place in a trained layer that predicts a token further, of which there is one; "
            "set trainer.mtp=frozen"
        )


def _is_rotary(name: str) -> bool:
    return name.endswith("rotary_emb.inv_freq")


def _first(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
