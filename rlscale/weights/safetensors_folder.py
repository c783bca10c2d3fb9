"""Weights written tensor by tensor as the safetensors files of a Hugging Face folder, with index and checksums."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from rlscale.families.weight_files import INDEX, SUMS
from rlscale.platform.weight_checksums import checksum
from rlscale.weights.safetensors_file import SafetensorsFile

_FILE_BYTES = 4 * 2**30
"""A file is closed before it passes this."""


class SafetensorsFolder:
    """The files of a folder, one after the other. OSError when the disk refuses, KeyError for a type without a name."""

    def __init__(self, folder: Path, file_bytes: int = _FILE_BYTES) -> None:
        """A file is closed before it passes `file_bytes`. The folder exists."""
        self._folder, self._limit = folder, file_bytes
        self._open: SafetensorsFile | None = None
        self._files = 0
        self._file_of: dict[str, str] = {}
        self._sums: dict[str, str] = {}
        self.nbytes = 0
        """Bytes of the tensors so far."""

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor of any device into the open file, or into the next if that is full."""
        tensor = tensor.detach().cpu().contiguous()
        file = self._open
        if file is None or file.nbytes + tensor.nbytes > self._limit or not file.has_room(name):
            self._close_file()
            self._files += 1
            self._open = file = SafetensorsFile(self._folder / f"model-{self._files:05d}.safetensors")
        file.add(name, tensor)
        self._file_of[name] = f"model-{self._files:05d}.safetensors"
        self._sums[name] = checksum(tensor.flatten().view(torch.uint8).numpy().data)
        self.nbytes += tensor.nbytes

    def close(self) -> None:
        """Close the last file and write which file holds which tensor, and their checksums."""
        self._close_file()
        _write_json(self._folder / INDEX, {"metadata": {"total_size": self.nbytes}, "weight_map": self._file_of})
        _write_json(self._folder / SUMS, self._sums)

    def abandon(self) -> None:
        """Close the open file although nobody will read it."""
        file, self._open = self._open, None
        if file is not None:
            file.abandon()

    def _close_file(self) -> None:
        file, self._open = self._open, None
        if file is not None:
            file.close()


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
