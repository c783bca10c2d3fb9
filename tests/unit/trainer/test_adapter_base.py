"""The mark of the weights that adapters stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlscale.trainer.adapter_base import mark_of


def folder(path: Path, **weights: torch.Tensor) -> Path:
    path.mkdir()
    save_file(weights, path / "model.safetensors")
    return path


def test_weights_of_which_one_tensor_in_the_middle_differs_have_another_mark(tmp_path: Path) -> None:
    """Of megabytes before and behind it, as an embedding and an output layer that were not trained."""
    frozen = torch.zeros(1024, 1024)
    one = folder(tmp_path / "one", a=frozen, b=torch.zeros(1024, 1024), c=frozen.clone())
    same = folder(tmp_path / "same", a=frozen, b=torch.zeros(1024, 1024), c=frozen.clone())
    other = folder(tmp_path / "other", a=frozen, b=torch.full((1024, 1024), 1e-3), c=frozen.clone())
    assert mark_of(one) == mark_of(same)
    assert mark_of(one) != mark_of(other)


def test_so_have_files_whose_tensors_are_not_told_apart(tmp_path: Path) -> None:
    marks = set()
    for value in (0, 1):
        content = bytearray(32 * 2**20)
        content[15 * 2**20 : 16 * 2**20] = bytes([value]) * 2**20
        (tmp_path / "__0_0.distcp").write_bytes(content)
        marks.add(mark_of(tmp_path))
    assert len(marks) == 2


def test_a_folder_without_weights_has_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights in"):
        mark_of(tmp_path)
