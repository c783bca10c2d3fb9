"""The model that adapters stand on, as a checkpoint of them remembers it: where it lies, and a mark of its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

ADAPTER = "adapter.json"
"""File beside a checkpoint of adapters, which says what they are and on which model."""

_ENDS = 2**20
"""Bytes at both ends of each file that the mark is made of: weights that were trained differ in these too."""

_WEIGHTS = (".safetensors", ".distcp")


def mark_of(folder: str | Path) -> str:
    """A mark of the weights in a Hugging Face folder or a checkpoint, wherever it lies. OSError if it is not there."""
    digest = hashlib.sha256()
    for file in sorted(file for file in Path(folder).iterdir() if file.suffix in _WEIGHTS):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with open(file, "rb") as content:
            digest.update(content.read(_ENDS))
            content.seek(max(size - _ENDS, 0))
            digest.update(content.read(_ENDS))
    return digest.hexdigest()[:16]


def base_of(checkpoint: str | Path) -> str | None:
    """The folder of the model that a checkpoint's adapters stand on; None if it does not say."""
    file = Path(checkpoint) / ADAPTER
    if not file.is_file():
        return None
    return str(json.loads(file.read_text(encoding="utf-8"))["base"])
