"""A safetensors file written tensor by tensor: the library's `save_file` wants all of them at once, and copies them.

Format: 8 bytes with the length of the header, the header (JSON, may end in spaces), the bytes of the tensors.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.platform.weight_checksums import checksum

NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int32: "I32",
    torch.uint8: "U8",  # codes and scales
}
"""Types by the format's names."""

_RESERVED = 2**20
"""Bytes kept free for the header, which is only known at the end, where nobody says how many it needs."""
_ENTRY = 256
"""Bytes that one tensor takes in the header, at most, besides its name."""


class SafetensorsFile:
    """One file. Give it tensors with `add`, then `close` it. OSError when the disk refuses."""

    def __init__(self, path: Path, room_for: Collection[str] = ()) -> None:
        """`room_for`: names of tensors that the header must be able to take."""
        self._file = open(path, "wb")  # noqa: SIM115 - closed by `close`
        self._reserved = max(_RESERVED, sum(len(name) + _ENTRY for name in room_for) + _ENTRY)
        self._file.seek(8 + self._reserved)
        self._header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._room = self._reserved - _ENTRY
        self.nbytes = 0
        """Bytes of the tensors so far."""
        self.checksums: dict[str, str] = {}
        """Of each tensor so far, by name: of what is meant to be in the file."""

    def has_room(self, name: str) -> bool:
        """Whether the header can take one more tensor of that name."""
        return self._room >= len(name) + _ENTRY

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor of any device. UserError for a type that no model here has."""
        if tensor.dtype not in NAMES:
            raise UserError(
                f"{name} is of type {str(tensor.dtype).removeprefix('torch.')}, which is not written here; convert it "
                f"in the model's folder to {', '.join(NAMES.values())}"
            )
        end = self.nbytes + tensor.nbytes
        offsets = [self.nbytes, end]
        self._header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        self.checksums[name] = checksum(content)
        self._file.write(content)
        self._room -= len(name) + _ENTRY
        self.nbytes = end

    def abandon(self) -> None:
        """Close a file that nobody will read, also where the disk refuses what is still to be written."""
        with suppress(OSError):
            self._file.close()

    def close(self) -> None:
        """Write the header; before that it is not a safetensors file."""
        try:
            self._file.seek(0)
            self._file.write(self._reserved.to_bytes(8, "little"))
            self._file.write(json.dumps(self._header).encode().ljust(self._reserved))
        finally:
            self._file.close()
