"""The folder that is exported: files of a bounded size with an index, and nothing where the disk refuses."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from rlscale.trainer.megatron import export
from rlscale.weights.load import INDEX, WeightFolder
from rlscale.weights.source import Bucket

WEIGHTS = {
    f"layer.{number}.weight": torch.randn(8, 16, generator=torch.Generator().manual_seed(number)) for number in range(5)
}
WEIGHTS["norm.weight"] = torch.ones(16, dtype=torch.bfloat16)


class Source:
    """Hands out its tensors two at a time."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._named = list(weights.items())
        self.left = len(self._named)

    def buckets(self, version: int) -> Iterator[Bucket]:
        for start in range(0, len(self._named), 2):
            named = self._named[start : start + 2]
            self.left -= len(named)
            yield Bucket(named, version)


@pytest.fixture(autouse=True)
def _one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder whose weights are not copied."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "old.safetensors").write_text("")
    return folder


@pytest.mark.parametrize(("at_most", "files"), [(1100, 3), (10**6, 1)])  # of five matrices of 512 bytes
def test_weights_are_spread_over_files_and_found_again(
    at_most: int, files: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_FILE_BYTES", at_most)
    target = tmp_path / "out" / "hf"
    export.export_folder(Source(WEIGHTS), str(model), target, {"num_labels": 1})
    found = sorted(target.glob("*.safetensors"))
    assert len(found) == files
    assert (target / INDEX).exists() == (files > 1)
    for path in found:
        assert sum(tensor.nbytes for tensor in load_file(path).values()) <= at_most
    with WeightFolder(target) as folder:
        for name, tensor in WEIGHTS.items():
            assert torch.equal(folder.read(name), tensor)
    assert {path.name for path in target.iterdir()} - {path.name for path in found} - {INDEX} == {
        "config.json",
        "tokenizer.json",
    }
    assert json.loads((target / "config.json").read_text()) == {"model_type": "qwen3", "num_labels": 1}


def test_a_full_disk_is_an_error_that_leaves_what_was_there(model: Path, tmp_path: Path) -> None:
    target, source = tmp_path / "hf", Source(WEIGHTS)
    target.mkdir()
    (target / "of_before").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))  # no more than the space that is kept for the header
    try:
        with pytest.raises(OSError, match="File too large"):
            export.export_folder(source, str(model), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert source.left == 0, "the other ranks would wait for this one"
    assert [path.name for path in target.iterdir()] == ["of_before"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model"]
