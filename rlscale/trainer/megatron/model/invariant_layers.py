"""A model whose results for a token do not depend on its micro-batch, see `platform.batch_invariant`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.platform import batch_invariant, invariant_products
from rlscale.trainer.megatron.model.attention import PackedAttention
from rlscale.trainer.megatron.model.expert_router import Router
from rlscale.trainer.megatron.model.layers import GroupedLinear, WholeLinear


def make_batch_invariant(chunk: GPTModel) -> None:
    """Let every matrix product and every attention of a model chunk on the CPU sum in a fixed order.

    For chunks that neither tensor nor context parallelism splits. Norms, rotary positions and activations sum within a
    token anyway. UserError on a machine whose products depend on what is beside a token all the same.
    """
    layer: Any
    for layer in chunk.modules():
        if isinstance(layer, ColumnParallelLinear | RowParallelLinear):
            layer._forward_impl = _product
        elif isinstance(layer, GroupedLinear | Router | WholeLinear):
            layer.product = batch_invariant.linear
        elif isinstance(layer, PackedAttention):
            layer.whole = batch_invariant.causal_attention
    _ask_machine(chunk)


def _ask_machine(chunk: GPTModel) -> None:
    config: Any = chunk.config
    heads, key_heads = config.num_attention_heads, config.num_query_groups
    values = getattr(config, "v_head_dim", config.kv_channels)  # of latent attention, which alone has a size for them
    if not batch_invariant.attention_is_independent(heads, key_heads, config.kv_channels, config.params_dtype, values):
        raise UserError(
            "run.bitwise=true: on this machine the attention of a token has other bits beside other tokens; leave "
            "run.bitwise out"
        )
    for outputs, inputs, dtype in sorted({*_products(chunk)}, key=str):
        if not invariant_products.rows_are_independent(outputs, inputs, dtype):
            raise UserError(
                f"run.bitwise=true: on this machine a row of a product with a weight of [{outputs}, {inputs}] has "
                "other bits beside other rows; leave run.bitwise out"
            )


def _products(chunk: GPTModel) -> Iterator[tuple[int, int, torch.dtype]]:
    """Outputs, inputs and type of each matrix product of a chunk: that of the head by blocks of the vocabulary."""
    routers = {id(module.weight): module for module in chunk.modules() if isinstance(module, Router)}
    for name, weight in chunk.named_parameters():
        if weight.dim() != 2:
            continue
        outputs, inputs = weight.shape
        router, of_words = routers.get(id(weight)), name.startswith(("embedding.", "output_layer."))
        dtype = weight.dtype if router is None else router.product_type(weight.dtype)
        for block in {min(batch_invariant.WORDS, outputs), outputs % batch_invariant.WORDS} if of_words else {outputs}:
            if block:
                yield block, inputs, dtype


def _product(input: Tensor, weight: Tensor, bias: Tensor | None, **parallel: Any) -> Tensor:
    """In the place of Megatron's product of a linear, whose options speak of the ranks that share it."""
    return batch_invariant.linear(input, weight, bias)
