"""A model whose results for a token do not depend on its micro-batch, see `platform.batch_invariant`."""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.platform import batch_invariant
from rlscale.trainer.megatron.model.attention import PackedAttention
from rlscale.trainer.megatron.model.expert_router import Router
from rlscale.trainer.megatron.model.layers import GroupedLinear


def make_batch_invariant(chunk: GPTModel) -> None:
    """Let every matrix product and every attention of a model chunk on the CPU sum in a fixed order.

    For chunks that neither tensor nor context parallelism splits. Norms, rotary positions and activations sum within a
    token anyway. UserError on a machine whose products depend on what is beside a token all the same.
    """
    layer: Any
    for layer in chunk.modules():
        if isinstance(layer, ColumnParallelLinear | RowParallelLinear):
            layer._forward_impl = _product
        elif isinstance(layer, GroupedLinear | Router):
            layer.product = batch_invariant.linear
        elif isinstance(layer, PackedAttention):
            layer.whole = batch_invariant.causal_attention
    _ask_machine(chunk)


def _ask_machine(chunk: GPTModel) -> None:
    weights = (parameter for parameter in chunk.parameters() if parameter.dim() == 2)
    for outputs, inputs, dtype in {(*weight.shape, weight.dtype) for weight in weights}:
        if not batch_invariant.rows_are_independent(outputs, inputs, dtype):
            raise UserError(
                f"run.bitwise=true: on this machine a row of a product with a weight of [{outputs}, {inputs}] has "
                "other bits beside other rows; leave run.bitwise out"
            )


def _product(input: Tensor, weight: Tensor, bias: Tensor | None, **parallel: Any) -> Tensor:
    """In the place of Megatron's product of a linear, whose options speak of the ranks that share it."""
    return batch_invariant.linear(input, weight, bias)
