"""The tensors of an adapter in peft's form."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def read_adapter_file(file: Path) -> dict[str, Tensor]:
    """All of them by their names. OSError or ValueError if they cannot be read."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
