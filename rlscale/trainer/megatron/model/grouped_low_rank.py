"""Adapters of low rank on a linear of many experts, one for each of this rank's.

With expert tensor parallelism the token dispatcher gathers the tokens before the experts and sums what comes out of
them over the ranks, and the gradients of what went in likewise. So an adapter communicates nothing for a token: what a
rank computes is a part of a sum. Of the matrix that is not cut each rank has the gradient of its part alone, and these
are summed over the ranks, those of all experts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region
from torch import Tensor

from rlscale.trainer.megatron.model.low_rank import Cut, Factors, LowRank, Pairs


class GroupedLowRank(torch.nn.Module):
    """What is added to the outputs of a linear of many experts. All of one cut, and with adapters on the same parts."""

    def __init__(self, experts: Sequence[LowRank], tensor_group: Any) -> None:
        """`experts`: in the linear's order, each without a group of its own; `tensor_group`: what they are cut over."""
        super().__init__()
        self.experts, self.group, self.cut = torch.nn.ModuleList(experts), tensor_group, experts[0].cut

    @property
    def enabled(self) -> bool:
        """Whether it adds anything; they are switched together."""
        first: LowRank = self.experts[0]  # type: ignore[assignment]  # a ModuleList says Module of what is in it
        return first.enabled

    def added(self, x: Tensor, splits: Any) -> Tensor:
        """[tokens, inputs (of this rank)], sorted by expert, and tokens of each -> what the output gets more."""
        sizes = splits.tolist() if torch.is_tensor(splits) else list(splits)
        experts: Any = self.experts
        factors = self._with_whole_gradients([expert.factors() for expert in experts])
        each = zip(experts, x.split(sizes), factors, strict=True)
        return torch.cat([expert.product(part, own) for expert, part, own in each])

    def _with_whole_gradients(self, of_experts: Sequence[Pairs]) -> Sequence[Pairs]:
        """The same matrices; gradients of those that every rank has are summed over the ranks on their way back."""
        if self.group.size() == 1:
            return of_experts
        place = 0 if self.cut is Cut.column else 1
        copies = [pair[place] for pairs in of_experts for pair in pairs if pair is not None]
        flat = copy_to_tensor_model_parallel_region(torch.cat([copy.flatten() for copy in copies]), group=self.group)
        whole = iter(zip(flat.split([copy.numel() for copy in copies]), copies, strict=True))

        def replaced(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            part, copy = next(whole)
            matrix = part.view(copy.shape)
            return (matrix, pair[1]) if place == 0 else (pair[0], matrix)

        return [[None if pair is None else replaced(pair) for pair in pairs] for pairs in of_experts]


def mark_as_expert(factors: Factors, weight: Tensor, tensor_rank: int) -> None:
    """Have Megatron reduce and count A and B as it does the weight of their expert (`layers.Experts`)."""
    if getattr(weight, "allreduce", True):
        return
    marked: Any  # Megatron reads these attributes from parameters
    for name, marked in (("a", factors.a), ("b", factors.b)):
        marked.allreduce = False
        marked.tensor_model_parallel = True  # counted in the norm on whatever tensor-parallel rank the expert is
        marked.shared = tensor_rank > 0 and factors.dimension(name) is None  # but the same matrix once
