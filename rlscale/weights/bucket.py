"""What transports carry: buckets of named tensors, from whatever has weights. Needs nothing of a trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class Bucket:
    """Some of the model's tensors under their Hugging Face names, of one weight version."""

    named: list[tuple[str, Tensor]]
    version: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for _, tensor in self.named)


class WeightSource(Protocol):
    """Where a transport gets weights from."""

    def buckets(self, version: int) -> Iterator[Bucket]:
        """All tensors of the model, once. Collective: every trainer rank iterates to the end, each gets all tensors."""
