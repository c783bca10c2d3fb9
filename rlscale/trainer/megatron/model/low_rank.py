"""An adapter of low rank on one of Megatron's linears, split over tensor-parallel ranks as that is.

Megatron keeps query, key and value (gate and up) in one linear, peft adapts each: here each has its A and B, under the
names and with the rows that peft gives it, cut over the ranks without regard to the others. What is communicated has
`rank` numbers for each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parameter import Parameter

Pairs = Sequence[tuple[Tensor, Tensor] | None]
"""A and B of each part, None where a part has none."""


class Cut(Enum):
    """How a linear is split over tensor-parallel ranks, and the adapter with it."""

    column = "column"
    """By outputs: B is cut, every rank has A."""
    row = "row"
    """By inputs: A is cut, every rank has B."""
    whole = "whole"
    """Not at all; each rank applies it to its own tokens."""


class Factors(torch.nn.Module):
    """A [rank, inputs] and B [outputs, rank] of one of peft's linears, or what this rank has of them; B is zero."""

    def __init__(self, a: Tensor, b: Tensor, cut: Cut, sequence_parallel: bool) -> None:
        super().__init__()
        self.a, self.b, self.cut = Parameter(a), Parameter(b), cut
        marked: Any  # Megatron reads these attributes from parameters
        for marked, split, dimension in ((self.a, cut is Cut.row, 1), (self.b, cut is Cut.column, 0)):
            marked.tensor_model_parallel, marked.partition_dim, marked.partition_stride = split, dimension, 1
            # Each rank sees its share of the tokens then: Megatron sums the gradients over the tensor-parallel ranks.
            marked.sequence_parallel = sequence_parallel and not split

    def forward(self) -> tuple[Tensor, Tensor]:
        """A and B. Called in passes: Megatron's hook here waits for parameters that are still being gathered."""
        return self.a, self.b

    def dimension(self, name: str) -> int | None:
        """Along which dimension `a` or `b` is cut; None if it is not."""
        return {(Cut.row, "a"): 1, (Cut.column, "b"): 0}.get((self.cut, name))

    def _apply(self, *args: Any, **options: Any) -> Any:
        """As torch's, but the type stays `model.lora.dtype` when the model is made 16 bits."""
        kept = self.a.data, self.b.data
        super()._apply(*args, **options)
        for parameter, value in zip((self.a, self.b), kept, strict=True):
            parameter.data = value.to(parameter.device)
        return self


@dataclass(frozen=True)
class Part:
    """One of the tensors that Megatron keeps in a linear."""

    name: str
    """Name of the linear in Hugging Face's form: model.layers.0.self_attn.q_proj."""
    rows: int
    """Its outputs on this rank."""
    factors: Factors | None
    """None where it has no adapter."""


class LowRank(torch.nn.Module):
    """What is added to a linear's output. Build it on every rank of the model alike."""

    order: Tensor | None
    group: Any

    def __init__(
        self,
        parts: Sequence[Part],
        order: Tensor | None,
        cut: Cut,
        scale: float,
        tensor_group: Any,
        *,
        sequence_parallel: bool,
    ) -> None:
        """`order`: for each output of Megatron's linear on this rank, its place in the parts one after the other.

        `tensor_group`: the ranks that it is cut over; None where it communicates nothing itself.
        """
        super().__init__()
        self.parts, self.cut, self.scale = tuple(parts), cut, scale
        self.group, self.sequence = tensor_group, sequence_parallel
        self.enabled = True
        """Whether it adds anything; off, the linear is that of the base."""
        self.register_buffer("order", order, persistent=False)
        for part in self.parts:
            if part.factors is not None:
                self.add_module(part.name.rpartition(".")[2], part.factors)

    def added(self, x: Tensor) -> Tensor:
        """[tokens, 1, inputs / ranks or all] -> what the linear's output, of the same tokens and ranks, gets more."""
        return self.product(x, self.factors())

    def factors(self) -> Pairs:
        """A and B of each part that has them, on their way into a pass."""
        return [None if part.factors is None else part.factors() for part in self.parts]

    def product(self, x: Tensor, factors: Pairs) -> Tensor:
        """`added` with these A and B."""
        a, b = self._matrices(factors)
        narrow = self._across(F.linear(x.to(a.dtype), a))
        return F.linear(narrow, b).mul(self.scale).to(x.dtype)

    def delta(self) -> Tensor:
        """What the linear's weight on this rank would have more, float32 [outputs, inputs]."""
        own = (part.factors for part in self.parts)
        a, b = self._matrices([None if factors is None else (factors.a, factors.b) for factors in own])
        return (b.float() @ a.float()).mul_(self.scale)

    def _matrices(self, factors: Pairs) -> tuple[Tensor, Tensor]:
        """A of all parts one above the other, and B with each part's in rows and columns of its own."""
        a = torch.cat([pair[0] for pair in factors if pair is not None])
        pairs = zip(self.parts, factors, strict=True)
        blocks = [a.new_zeros(part.rows, 0) if pair is None else pair[1] for part, pair in pairs]
        b = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
        return a, b if self.order is None else b.index_select(0, self.order)

    def _across(self, narrow: Tensor) -> Tensor:
        """[tokens, 1, rank] as the tensor-parallel ranks need it behind A."""
        if self.cut is Cut.whole or self.group is None or self.group.size() == 1:
            return narrow
        if self.cut is Cut.column:
            if self.sequence:
                return gather_from_sequence_parallel_region(narrow, group=self.group)
            return copy_to_tensor_model_parallel_region(narrow, group=self.group)
        if self.sequence:
            return reduce_scatter_to_sequence_parallel_region(narrow, group=self.group)
        return reduce_from_tensor_model_parallel_region(narrow, group=self.group)
