"""Floating-point types of parameters."""

from __future__ import annotations

from enum import Enum


class DType(Enum):
    """Floating-point types of parameters."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"

    @property
    def bytes(self) -> int:
        """Of a number."""
        return 4 if self is DType.float32 else 2
