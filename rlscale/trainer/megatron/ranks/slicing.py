"""How a micro-batch's tokens are cut over the ranks that share it."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.data.batches.packing import Padding


@dataclass(frozen=True)
class Slicing:
    """How this rank's tokens are cut out of a micro-batch."""

    context_size: int = 1
    """Context-parallel ranks."""
    context_rank: int = 0
    """This rank among them."""
    tensor_size: int = 1
    """Tensor-parallel ranks that share the tokens of a context-parallel rank (sequence parallelism)."""

    multiple: int = 1
    """Of what the tokens of a rank must be a multiple (`trainer.fp8`)."""

    @property
    def padding(self) -> Padding:
        """To multiples of what each segment and the whole micro-batch are padded."""
        return Padding.of_layout(self.context_size, self.tensor_size, self.multiple)
