"""What tells one tensor from another without either: its type, its shape, and the checksum of its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlscale.families.weight_files import TensorEntry
from rlscale.platform.weight_checksums import checksum

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "BOOL": "bool",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    "U8": "uint8",
}
"""torch's names of safetensors' types."""


@dataclass(frozen=True)
class TensorSum:
    """Of one tensor. As text: `float32 [64, 128] 3c0f...`."""

    dtype: str
    """Its type, by torch's name."""
    shape: tuple[int, ...]
    checksum: str
    """XXH3 of its bytes in the order of its dimensions, 32 hex digits."""

    @staticmethod
    def of(tensor: Tensor) -> TensorSum:
        """Of a tensor on any device."""
        import torch  # here, because who only reads checksums does without

        plain = tensor.detach().cpu().contiguous()
        content = plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b""
        return TensorSum(str(plain.dtype).removeprefix("torch."), tuple(plain.shape), checksum(content))

    @staticmethod
    def read(text: str) -> TensorSum:
        """What `str` wrote. ValueError for another text."""
        dtype, _, rest = text.partition(" [")
        sizes, found, digits = rest.partition("] ")
        if not found:
            raise ValueError(f"{text!r} is not a type, a shape and a checksum")
        return TensorSum(dtype, tuple(int(size) for size in sizes.split(", ") if size), digits)

    @staticmethod
    def of_entry(entry: TensorEntry) -> TensorSum:
        """Of a tensor in a safetensors file. OSError where that cannot be read."""
        with open(entry.file, "rb") as file:
            file.seek(entry.start)
            content = file.read(entry.end - entry.start)
        return TensorSum(_NAMES.get(entry.dtype, entry.dtype), entry.shape, checksum(content))

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)} {self.checksum}"
