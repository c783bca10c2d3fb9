"""The model that adapters stand on, as a checkpoint of them remembers it: where it lies, and a mark of its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

ADAPTER = "adapter.json"
"""File beside a checkpoint of adapters, which says what they are and on which model."""

_OF_TENSOR = 1024
"""Bytes at the beginning of each tensor that the mark is made of: no tensor that was trained keeps them."""
_PLACES, _OF_PLACE = 4096, 4096
"""The same of files whose tensors are not told apart: so many places, evenly over the file, of so many bytes."""


def mark_of(folder: str | Path) -> str:
    """A mark of the weights in a Hugging Face folder or a checkpoint, wherever it lies.

    OSError if there are no weights, ValueError for a file that is cut off.
    """
    digest = hashlib.sha256()
    files = sorted(file for file in Path(folder).iterdir() if file.suffix in (".safetensors", ".distcp"))
    if not files:
        raise FileNotFoundError(f"no weights in {folder}")
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with open(file, "rb") as content:
            places = _tensors(content) if file.suffix == ".safetensors" else _evenly(file.stat().st_size)
            for start, size in places:
                content.seek(start)
                digest.update(content.read(size))
    return digest.hexdigest()[:16]


def _tensors(content: BinaryIO) -> list[tuple[int, int]]:
    """Where the tensors of a safetensors file begin, and how many of their bytes are read; the header before them."""
    size = int.from_bytes(content.read(8), "little")
    offsets = [
        entry["data_offsets"] for name, entry in json.loads(content.read(size)).items() if name != "__metadata__"
    ]
    return [(0, 8 + size), *((8 + size + start, min(end - start, _OF_TENSOR)) for start, end in sorted(offsets))]


def _evenly(size: int) -> list[tuple[int, int]]:
    apart = max(size // _PLACES, _OF_PLACE)
    return [(start, _OF_PLACE) for start in range(0, size, apart)]


def base_of(checkpoint: str | Path) -> str | None:
    """The folder of the model that a checkpoint's adapters stand on; None if it does not say."""
    file = Path(checkpoint) / ADAPTER
    if not file.is_file():
        return None
    return str(json.loads(file.read_text(encoding="utf-8"))["base"])
