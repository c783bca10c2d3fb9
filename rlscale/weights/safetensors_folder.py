"""Weights written tensor by tensor as the safetensors files of a Hugging Face folder, with what names them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from rlscale.families.weight_files import INDEX, SUMS
from rlscale.weights.safetensors_file import SafetensorsFile

_FILE_BYTES = 4 * 2**30
"""A file is closed before it passes this."""


class SafetensorsFolder:
    """The files of a folder, one after another. OSError when the disk refuses, UserError for a type without a name."""

    def __init__(self, folder: Path, *, indexed: bool, file_bytes: int | None = None) -> None:
        """The folder exists. `indexed`: write an index in any case, not only of several files.

        A file is closed before it passes `file_bytes`, by default 4 GiB.
        """
        self._folder, self._limit = folder, file_bytes or _FILE_BYTES
        self._open: SafetensorsFile | None = None
        self._names: list[str] = []
        self._file_of: dict[str, str] = {}
        self._indexed, self._sums = indexed, dict[str, str]()
        self._of_dtype: Counter[str] = Counter()  # bytes

    @property
    def dtype(self) -> str:
        """The type of the weights; where they have several, that of most bytes."""
        return self._of_dtype.most_common(1)[0][0]

    def add_all(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Write tensors, one after the other."""
        for name, tensor in named:
            self.add(name, tensor)

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor of any device into the open file, or into the next if that is full."""
        tensor = tensor.detach().cpu().contiguous()
        file = self._open
        if file is None or file.nbytes + tensor.nbytes > self._limit or not file.has_room(name):
            self._close_file()
            self._names.append(f"model-{len(self._names) + 1:05d}.safetensors")
            self._open = file = SafetensorsFile(self._folder / self._names[-1])
        file.add(name, tensor)
        self._file_of[name] = self._names[-1]
        self._of_dtype[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes

    def close(self) -> None:
        """Close the last file, say what is where, and write the checksums of the tensors.

        Without an index one file has the name that needs none.
        """
        self._close_file()
        if len(self._names) == 1 and not self._indexed:
            (self._folder / self._names[0]).rename(self._folder / "model.safetensors")
        else:
            total = {"total_size": self._of_dtype.total()}
            _write_json(self._folder / INDEX, {"metadata": total, "weight_map": self._file_of})
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
            self._sums |= file.checksums


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
