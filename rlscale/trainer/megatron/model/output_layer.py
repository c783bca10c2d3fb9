"""The policy's last layer: it keeps its weight and hands on hidden states, so that logits never exist all at once."""

from __future__ import annotations

from typing import Any

from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from torch import Tensor


class OutputLayer(ColumnParallelLinear):
    """Megatron's output layer without its product, which `logprobs` makes in tiles: same parameter, name, checkpoint.

    Stands where a GPTModel has its `output_layer`.
    """

    def __init__(self, layer: ColumnParallelLinear) -> None:
        """Take over the layer that GPTModel made, its parameter included (none if it is the embedding's)."""
        super().__init__(
            layer.input_size,
            layer.output_size,
            config=layer.config,
            init_method=layer.config.init_method,
            bias=False,
            skip_weight_param_allocation=True,
            tp_group=layer.tp_group,
        )
        self.weight = layer.weight

    def forward(
        self, hidden: Tensor, weight: Tensor | None = None, *unused: Any, **options: Any
    ) -> tuple[Tensor, None]:
        """[tokens of this rank, 1, hidden] -> ([all tokens, 1, hidden], None), the same on every tensor-parallel rank.

        Backward it sums the gradients of the ranks, each of which knows that of its part of the vocabulary.
        """
        if self.sequence_parallel:
            return gather_from_sequence_parallel_region(hidden, group=self.tp_group), None
        return copy_to_tensor_model_parallel_region(hidden, group=self.tp_group), None
