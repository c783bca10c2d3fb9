"""Operations whose result for a token has the same bits whatever else is computed beside it: batch invariance.

A matrix product sums each entry in an order that the library chooses by the number of rows, and attention in one that
depends on the longest sequence beside it. So the same token has other bits in an engine, which computes it among the
requests that happen to run, and in the trainer, which computes it among the rows of a micro-batch. Here every order is
fixed: a product is made of tiles of `TILE` rows, attention sums over blocks of `KEYS` keys counted from a sequence's
first, and log-probs over blocks of `WORDS` words. Trainer and engine compute by these in a run with `run.bitwise`, on
the CPU with one thread, and their log-probs are equal bit for bit.

Norm, rotary positions and gated activation (`elementwise`) sum within a token only, and need nothing of this.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 64
"""Rows of each matrix product: fewer are filled up, which costs a small batch time, more are several products."""

OUTPUTS = 16
"""Columns of a product at the least, for the same reason."""

_LINE = 64
"""Bytes of a cache line."""

KEYS = 64
"""Keys of a block of attention."""

QUERIES = 16
"""To multiples of this the queries of a block of attention are filled up: for a few, libraries take other kernels."""

WORDS = 4096
"""Words of a block of the vocabulary."""

SCORES = 1 << 22
"""Most scores of attention at a time (16 MiB): longer sequences attend a part of their queries after the other."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T: [n, in], [out, in] -> [n, out], without gradient."""
    rows, width = x.shape
    outputs = weight.shape[0]
    if rows == 0:
        return x.new_zeros(0, outputs)
    weight = F.pad(weight, (0, 0, 0, OUTPUTS - outputs)) if outputs < OUTPUTS else _aligned(weight)
    tiles = -(-rows // TILE)
    x = F.pad(x, (0, 0, 0, -rows % TILE)) if rows % TILE else _aligned(x)
    if x.dtype is torch.float32:  # one call for all tiles; in 16 bits torch has no fast one
        result = torch.bmm(x.view(tiles, TILE, width), weight.t().expand(tiles, -1, -1)).flatten(0, 1)
    else:
        result = x.new_empty(x.shape[0], weight.shape[0])
        for start in range(0, x.shape[0], TILE):
            torch.mm(x[start : start + TILE], weight.t(), out=result[start : start + TILE])
    return result[:rows, :outputs]


def _aligned(x: Tensor) -> Tensor:
    """The same at an address where a cache line begins: elsewhere a library may begin with another sum.

    The parameters of a trained model lie one after the other in one piece of memory, at any address.
    """
    return x if x.data_ptr() % _LINE == 0 and x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)


def rows_are_independent(outputs: int, inputs: int, dtype: torch.dtype) -> bool:
    """Whether a product with a weight of that shape gives rows the same bits in another order, and one by itself.

    The libraries behind it promise nothing: this asks them, on this machine.
    """
    numbers = _numbers(max(outputs, 3 * TILE // 2), inputs, dtype=dtype)
    x, weight = numbers[: 3 * TILE // 2], numbers[:outputs]
    whole = product(x, weight)
    return torch.equal(product(x.flip(0), weight).flip(0), whole) and torch.equal(product(x[7:8], weight), whole[7:8])


def attention_is_independent(heads: int, key_heads: int, size: int, dtype: torch.dtype) -> bool:
    """The same of attention with so many heads of that size: of whole sequences, and of some of their tokens alone."""
    tokens = KEYS + KEYS // 2
    query, key, value = (_numbers(2, n, tokens, size, dtype=dtype) for n in (heads, key_heads, key_heads))
    last = torch.arange(tokens).expand(2, -1)
    whole = attention(query, key, value, last, size**-0.5)
    for first, end in ((0, 9), (KEYS - 1, KEYS), (KEYS + 9, KEYS + 10), (7, tokens)):
        own, seen = (slice(1, 2), slice(None), slice(first, end)), (slice(1, 2), slice(None), slice(end))
        alone = attention(query[own], key[seen], value[seen], last[1:2, first:end], size**-0.5)
        if not torch.equal(alone, whole[own]):
            return False
    return True


def _numbers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Some between -1 and 1, always the same, without a draw from torch's generator."""
    return torch.linspace(-1, 1, math.prod(shape)).mul_(1000).sin_().view(shape).to(dtype)


class _Linear(torch.autograd.Function):
    """The product by tiles; its gradient, which nothing is compared with, as torch's linear has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x = torch.matmul(gradient, weight) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return for_x, None
        return for_x, gradient.reshape(-1, weight.shape[0]).t() @ x.reshape(-1, x.shape[-1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: [..., in], [out, in], [out] -> [..., out]."""
    result: Tensor = _Linear.apply(x, weight)
    return result if bias is None else result + bias


def attention(query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
    """softmax(Q K^T scale) V over each query's own keys, the first `last` + 1 of its sequence; without gradient.

    Shapes: query [n, heads, q, d], key [n, key heads, k, d], value [n, key heads, k, e], last int64 [n, q] ->
    [n, heads, q, e] in the query's type. Computed in float32.
    """
    together = max(SCORES // max(query.shape[0] * query.shape[1] * key.shape[2], 1), 1)
    if query.shape[2] <= together:
        return _attended(query, key, value, last, scale)
    parts = zip(query.split(together, 2), last.split(together, 1), strict=True)
    return torch.cat([_attended(queries, key, value, seen, scale) for queries, seen in parts], 2)


def _attended(query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
    n, heads, queries, size = query.shape
    key_heads, shared = key.shape[1], heads // key.shape[1]
    rows = query.float().reshape(n, key_heads, shared * queries, size)
    rows = F.pad(rows, (0, 0, 0, -rows.shape[2] % QUERIES))
    seen = F.pad(last.repeat(1, shared), (0, rows.shape[2] - shared * queries))[:, None, :, None]
    keys, values = (_in_blocks(x, int(last.max()) + 1) for x in (key, value))
    scores = torch.matmul(rows[:, :, None], keys.transpose(-1, -2)).mul_(scale)  # [n, key heads, blocks, rows, KEYS]
    position = torch.arange(keys.shape[2] * KEYS).view(-1, 1, KEYS)
    scores.masked_fill_(position > seen[:, :, None], float("-inf"))
    # A maximum is the same in any order. Keys that a query does not see add zeros at the end.
    scores.sub_(scores.amax((2, 4), keepdim=True)).exp_()
    total = sum_in_order(scores.sum(-1, keepdim=True))
    attended = sum_in_order(torch.matmul(scores, values)).div_(total)[:, :, : shared * queries]
    return attended.reshape(n, heads, queries, -1).to(query.dtype)


def _in_blocks(x: Tensor, used: int) -> Tensor:
    """The first `used` of keys or values, filled up with zeros to whole blocks: [n, heads, blocks, KEYS, d]."""
    x = F.pad(x[:, :, :used].float(), (0, 0, 0, -used % KEYS))
    return x.contiguous().unflatten(2, (-1, KEYS))


def sum_in_order(blocks: Tensor) -> Tensor:
    """[n, heads, blocks, ...] -> [n, heads, ...], one block after the other. The first is overwritten."""
    total, *others = blocks.unbind(2)
    for other in others:
        total += other
    return total


class _CausalAttention(torch.autograd.Function):
    """The attention by blocks of whole sequences; its gradient is that of torch's attention."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        last = torch.arange(query.shape[2]).expand(query.shape[0], -1)
        return attention(query, key, value, last, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = (x.detach().requires_grad_() for x in ctx.saved_tensors)
        with torch.enable_grad():
            shared = query.shape[1] != key.shape[1]
            again = F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=ctx.scale, enable_gqa=shared
            )
        return *torch.autograd.grad(again, (query, key, value), gradient), None


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Of whole sequences, with gradient: query [n, heads, t, d], key, value [n, key heads, t, d] -> as query."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    attended: Tensor = _CausalAttention.apply(query, key, value, scale)
    return attended


def sigmoid(x: Tensor) -> Tensor:
    """Of each number of [n, m], m a multiple of 32 or not: torch computes the last few of a tensor otherwise."""
    return torch.sigmoid(F.pad(x, (0, 0, 0, -x.shape[0] % TILE)))[: x.shape[0]]


def shift(largest: Tensor, logits: Tensor) -> Tensor:
    """Let a block of logits [n, words] raise the `largest` [n] so far, and subtract it from them.

    Both are changed. Returns by how much the largest was too small, [n], at most 0.
    """
    now = torch.maximum(largest, logits.amax(1))
    change = largest - now
    largest.copy_(now)
    logits.sub_(now[:, None])
    return change


def add_block(total: Tensor, probabilities: Tensor, change: Tensor) -> None:
    """Add exp(logits - largest) [n, words] of a further block to their sum `total` [n] so far."""
    total.mul_(change.exp()).add_(probabilities.sum(1))


def logprobs(logits: Tensor, chosen: Tensor) -> Tensor:
    """Log-probs of words: logits float32 [n, vocabulary] (already divided by the temperature), int64 [n] -> [n]."""
    largest, total = logits.new_full((len(logits),), -1e30), logits.new_zeros(len(logits))
    for words in logits.split(WORDS, 1):
        block = words.clone()
        change = shift(largest, block)
        add_block(total, block.exp_(), change)
    return logits.gather(1, chosen[:, None])[:, 0] - largest - total.log()


def head(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits by the blocks of the vocabulary: [n, hidden], [vocabulary, hidden] -> [n, vocabulary]."""
    return torch.cat([product(hidden, words) for words in weight.split(WORDS)], 1)
