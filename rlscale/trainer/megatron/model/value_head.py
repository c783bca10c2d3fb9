"""The critic's head: one number per position in the place of the logits."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer import TransformerConfig
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parameter import Parameter


class ValueHead(torch.nn.Module):
    """A linear to one value, the same on every tensor-parallel rank; zero at the start, so that all values are.

    Stands where a GPTModel has its `output_layer`.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.sequence_parallel = config.sequence_parallel
        self.weight = Parameter(torch.zeros(1, config.hidden_size, dtype=config.params_dtype))
        self.bias = Parameter(torch.zeros(1, dtype=config.params_dtype))
        for parameter in (self.weight, self.bias):
            # Each rank sees its share of the tokens then: Megatron sums the gradients over the tensor-parallel ranks.
            parameter.sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]  # Megatron reads it

    def forward(self, hidden: Tensor, weight: Tensor | None = None, **unused: Any) -> tuple[Tensor, None]:
        """[tokens, 1, hidden] -> (float32 [tokens, 1, 1] of all tokens, None), as Megatron's output layer answers."""
        values = F.linear(hidden.float(), self.weight.float(), self.bias.float())
        if self.sequence_parallel:
            # Every rank goes on to compute the same loss, so each keeps its own share of the gradient.
            values = gather_from_sequence_parallel_region(values, tensor_parallel_output_grad=False)
        return values, None
