"""Named tensors wherever they lie: a Hugging Face folder, a safetensors file, a trainer's checkpoint. One at a time.

Tensors are as they are stored: codes of a quantised folder stay codes, and a checkpoint's names are Megatron's, whole
whatever the layout of the ranks that wrote it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Protocol

from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.families.family import FolderError
from rlscale.families.weight_files import TensorEntry, read_header, tensors_of
from rlscale.platform.tensor_sum import TensorSum

CHECKPOINT = ".metadata"
"""A file by which a trainer's checkpoint is told."""


class TensorStore(Protocol):
    """Somewhere tensors lie."""

    def names(self) -> list[str]:
        """Of all tensors, in order."""

    def sum_of(self, name: str) -> TensorSum:
        """Type, shape and checksum of one. UserError where it cannot be read."""

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU. UserError where it cannot be read."""


def store_at(path: Path) -> TensorStore:
    """What lies at a path. UserError where that is nothing with tensors."""
    if (path / CHECKPOINT).is_file():
        return CheckpointStore(path)
    try:
        return SafetensorsStore(tensors_of(path) if path.is_dir() else read_header(path))
    except FolderError as error:
        raise UserError(f"{path}: {error}; name a Hugging Face folder, a checkpoint or a safetensors file") from error


class SafetensorsStore:
    """The tensors of safetensors files."""

    def __init__(self, entries: dict[str, TensorEntry]) -> None:
        self._entries = entries

    def names(self) -> list[str]:
        """See TensorStore."""
        return sorted(self._entries)

    def sum_of(self, name: str) -> TensorSum:
        """See TensorStore."""
        try:
            return TensorSum.of_entry(self._entries[name])
        except OSError as error:
            raise UserError(f"{self._entries[name].file} cannot be read ({error.strerror})") from error

    def read(self, name: str) -> Tensor:
        """See TensorStore."""
        from safetensors import safe_open

        with safe_open(str(self._entries[name].file), "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


class CheckpointStore:
    """The tensors of a checkpoint in torch's distributed form, as a trainer writes it: weights and optimizer."""

    def __init__(self, folder: Path) -> None:
        """UserError for a damaged one, and for one whose index would run code."""
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata

        from rlscale.weights.checkpoint_index import CheckpointReader, read_index

        self._folder = folder
        index = read_index(folder)
        self._reader = CheckpointReader(folder, index)
        tensors = index.state_dict_metadata.items()
        self._tensors = {name: about for name, about in tensors if isinstance(about, TensorStorageMetadata)}

    def names(self) -> list[str]:
        """See TensorStore."""
        return sorted(self._tensors)

    def sum_of(self, name: str) -> TensorSum:
        """See TensorStore."""
        return TensorSum.of(self.read(name))

    def read(self, name: str) -> Tensor:
        """See TensorStore."""
        import torch
        from torch.distributed import checkpoint

        about = self._tensors[name]
        try:
            tensor = torch.empty(about.size, dtype=about.properties.dtype)
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # there is one process, as meant
            checkpoint.load({name: tensor}, storage_reader=self._reader, no_dist=True)
        except (Exception, checkpoint.CheckpointException) as error:  # the second is a BaseException
            raise UserError(f"{self._folder}: {name} cannot be read; is the checkpoint whole?") from error
        return tensor


def how_far(one: Tensor, other: Tensor) -> str:
    """By how much two tensors of one shape differ, for people."""
    first, second = one.double(), other.double()
    gap, norm = (first - second).abs(), first.norm().item()
    share, most = (gap != 0).double().mean().item(), gap.max().item()
    relative = f", {gap.norm().item() / norm:.1e} of its norm" if norm else ""
    return f"{share:.1%} of the numbers, at most by {most:.1e}{relative}"
