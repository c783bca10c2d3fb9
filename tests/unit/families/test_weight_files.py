"""The weights that are read are those that transformers reads; where that is not clear, both files are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from rlscale.families import FolderError
from rlscale.families.weight_files import INDEX, SINGLE, tensors_of, weight_files
from tests.unit.families.folders import DENSE, Weights, weights_of

NORM = "model.norm.weight"


def write_index(folder: Path, names: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def shards(folder: Path, weights: Weights) -> dict[str, str]:
    """Two files and their index, in the place of the single one."""
    names = list(weights)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / SINGLE).unlink(missing_ok=True)
    located = {name: file for file, part in parts.items() for name in part}
    write_index(folder, located)
    return located


def read_by_transformers(folder: Path) -> np.ndarray:
    """The final norm's weights."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()[NORM].numpy()


def test_a_header_says_what_is_in_the_file(make: Callable[..., Path]) -> None:
    folder = make()
    for name, array in load_file(folder / SINGLE).items():
        entry = tensors_of(folder)[name]
        assert (entry.dtype, entry.shape, entry.end - entry.start) == ("F32", array.shape, array.nbytes)
        raw = (folder / SINGLE).read_bytes()[entry.start : entry.end]
        assert np.array_equal(np.frombuffer(raw, np.float32).reshape(array.shape), array)


def test_an_index_that_points_elsewhere_changes_nothing_for_transformers_or_us(make: Callable[..., Path]) -> None:
    folder, weights = make(), weights_of(DENSE)
    located = shards(folder, weights)
    write_index(folder, {**located, NORM: "model-00002-of-00002.safetensors"})  # it is in the other
    assert tensors_of(folder)[NORM].file.name == "model-00001-of-00002.safetensors"
    theirs = read_by_transformers(folder)
    assert np.array_equal(theirs, weights[NORM])


def test_a_single_file_beside_an_old_index_is_refused_naming_both(make: Callable[..., Path]) -> None:
    folder = make()
    write_index(folder, dict.fromkeys(weights_of(DENSE), "model-00001-of-00001.safetensors"))
    with pytest.raises(FolderError, match=rf"{SINGLE} and {INDEX}, which names other files \(model-00001-of-00001"):
        weight_files(folder)
    write_index(folder, dict.fromkeys(weights_of(DENSE), SINGLE))
    assert weight_files(folder) == [folder / SINGLE]


def test_a_name_in_two_files_is_refused_naming_both(make: Callable[..., Path]) -> None:
    folder, weights = make(), weights_of(DENSE)
    located = shards(folder, weights)
    extra = "model-00003-of-00003.safetensors"
    save_file({NORM: weights[NORM] + 1}, folder / extra, metadata={"format": "pt"})
    assert np.array_equal(read_by_transformers(folder), weights[NORM])
    assert tensors_of(folder)[NORM].file.name == located[NORM]  # the index does not name the third file
    write_index(folder, {**located, "some.other": extra})
    # transformers takes the last file's, against the index
    assert np.array_equal(read_by_transformers(folder), weights[NORM] + 1)
    with pytest.raises(FolderError, match=rf"{NORM} is in two files, model-00001-of-00002\S+ and {extra}; remove"):
        tensors_of(folder)


def test_files_without_an_index_are_read_where_each_name_stands_once(make: Callable[..., Path]) -> None:
    folder, weights = make(), weights_of(DENSE)
    shards(folder, weights)
    (folder / INDEX).unlink()
    assert set(tensors_of(folder)) == set(weights)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "is not a mapping"),
        ("{}", "has no weight_map from tensors to files"),
        ('{"weight_map": []}', "has no weight_map from tensors to files"),
        ('{"weight_map": {}}', "has no weight_map from tensors to files"),
        ('{"weight_map": {"a": 3}}', "has no weight_map from tensors to files"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "names a file of another folder"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "1 of 1 weight files are missing, first gone.safetensors"),
        ("[" * 100_000, "its brackets are nested too deeply"),
    ],
)
def test_an_index_that_is_none_is_one_line(index: str, message: str, make: Callable[..., Path]) -> None:
    folder = make()
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(index)
    with pytest.raises(FolderError, match=message) as error:
        tensors_of(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-1], "is not whole: its header tells of"),
        (lambda whole: whole + b"x", "is not whole: its header tells of"),
        (lambda whole: whole[:100], "is not a whole safetensors file"),
        (lambda whole: b"", "is not a whole safetensors file"),
        (lambda whole: b"\xff" * 64, "is not a whole safetensors file"),
        (lambda whole: whole[:8] + b"[" + whole[9:], "its header is not JSON"),
        (lambda whole: (2).to_bytes(8, "little") + b"[]", "its header is not a mapping"),
        (lambda whole: (200_000).to_bytes(8, "little") + b"[" * 200_000, "its header is not JSON"),
        (lambda whole: whole.replace(b'"shape":[16]', b'"shape":[17]', 1), "is not a tensor; fetch or copy it again"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not the weights"),
    ],
)
def test_a_damaged_file_is_one_line(damage: Callable[[bytes], bytes], message: str, make: Callable[..., Path]) -> None:
    file = make() / SINGLE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(FolderError, match=message) as error:
        tensors_of(file.parent)
    assert "\n" not in str(error.value)
