"""Operations whose result for a token has the same bits whatever else is computed beside it: batch invariance.

A matrix product sums each entry in an order that the library chooses by the number of rows, and attention in one that
depends on the longest sequence beside it. So the same token has other bits in an engine, which computes it among the
requests that happen to run, and in the trainer, which computes it among the rows of a micro-batch. Here every order is
fixed: a product is made of tiles of rows (`invariant_products`), attention sums over spans of keys (`SPANS`) counted
from a sequence's first (in bfloat16 as `fused_attention`, where this machine can), and log-probs over blocks of `WORDS`
words. Trainer and engine compute by these in a run with `run.bitwise`, on the CPU with one thread, and their log-probs
are equal bit for bit.

Norm, rotary positions and gated activation (`elementwise`) sum within a token only, and need nothing of this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform import fused_attention
from rlscale.platform.cancelling_numbers import factors, terms
from rlscale.platform.invariant_products import OUTPUTS, product

KEYS = 64
"""To multiples of this keys and values are filled up. Those behind a query's own add zeros, at the end."""

SPANS = (256, 128, KEYS)
"""Keys whose values a product sums, whole numbers of `KEYS`; the sums of further ones are added one after the other.

A library sums some by themselves, and cuts more into parts that depend on how many there are: on one CPU some hundreds,
on another 192 already otherwise than 256. So the first of these is taken of which this machine, asked, sums any part in
one order.
"""

QUERIES = 64
"""Queries of a sequence that attend at a time."""

ROWS = 16
"""To multiples of this queries that share keys are filled up: for a few, libraries take other kernels."""

WORDS = 4096
"""Words of a block of the vocabulary."""

NOTHING = -1e30
"""The logit of a word that is left out, and the largest of no words: finite, so that it can be subtracted."""

_FUSED_TOKENS = 800
"""Of how many torch's own attention is asked: it takes up to 256 queries and 512 keys at a time."""

SCORES = 1 << 20
"""Scores of attention at a time (4 MiB), where several sequences have more: caches hold them."""

_TOGETHER = 32
"""Numbers that torch takes the sigmoid of at a time."""


def attention_is_independent(
    heads: int, key_heads: int, size: int, dtype: torch.dtype, value_size: int | None = None
) -> bool:
    """The same of attention with so many heads of that size: of whole sequences, and of some of their tokens alone.

    Values are as wide as keys where `value_size` is not given.
    """
    shapes = heads, key_heads, size, value_size or size
    return _is_independent(attention, _whole_attention, shapes, dtype, SPANS[0] + KEYS // 2)


@functools.cache
def torch_attends_alike(heads: int, key_heads: int, size: int, value_size: int, dtype: torch.dtype) -> bool:
    """Whether torch's own attention in 16 bits (`fused_attention`) is independent in that way, on this machine.

    In float32 it is not: what it sums up at once depends on the number of keys.
    """
    if dtype is not torch.bfloat16 or value_size > size:
        return False
    own, shapes = fused_attention, (heads, key_heads, size, value_size)
    return _is_independent(own.attend, own.attend_whole, shapes, dtype, _FUSED_TOKENS)


def _is_independent(
    attend: Callable[..., Tensor],
    attend_whole: Callable[..., Tensor],
    shapes: tuple[int, int, int, int],
    dtype: torch.dtype,
    tokens: int,
) -> bool:
    """Of two sequences of so many tokens: whole, shorter, some tokens of one, and single ones behind others."""
    heads, key_heads, size, value_size = shapes
    query, key = factors((2, heads, tokens), (2, key_heads, tokens), size, dtype)
    value, last = terms((2, key_heads), tokens, KEYS, value_size, dtype), torch.arange(tokens).expand(2, -1)
    for scale in (2.0**20, 2.0**-60):  # rounding of scores decides everything; sums of values are all that is seen
        together = attend(query, key, value, last, scale)
        for end in (9, KEYS + 9, tokens // 2, tokens):
            whole = attend_whole(*(x[:, :, :end] for x in (query, key, value)), scale)
            if not torch.equal(whole, together[:, :, :end]):
                return False
        ends = range(KEYS, tokens, KEYS)  # each number of keys that a product may have
        for first, end in ((0, 9), (0, 33), (KEYS + 9, KEYS + 10), (7, tokens), *((end - 1, end) for end in ends)):
            own, seen = (slice(1, 2), slice(None), slice(first, end)), (slice(1, 2), slice(None), slice(end))
            alone = attend(query[own], key[seen], value[seen], last[1:2, first:end], scale)
            if not torch.equal(alone, together[own]):
                return False
    return True


def _product_of_rows(x: Tensor, weight: Tensor) -> Tensor:
    return product(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    """The product by tiles; its gradient, which nothing is compared with, as torch's linear has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product_of_rows(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x = torch.matmul(gradient, weight) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return for_x, None
        return for_x, gradient.reshape(-1, weight.shape[0]).t() @ x.reshape(-1, x.shape[-1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: [..., in], [out, in], [out] -> [..., out]."""
    result: Tensor = _Linear.apply(x, weight) if torch.is_grad_enabled() else _product_of_rows(x, weight)
    return result if bias is None else result + bias


def attention(query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
    """softmax(Q K^T scale) V over each query's own keys, the first `last` + 1 of its sequence; without gradient.

    Shapes: query [n, heads, q, d], key [n, key heads, k, d], value [n, key heads, k, e], last int64 [n, q] ->
    [n, heads, q, e] in the query's type. Computed in float32, unless `torch_attends_alike`; keys and values in float32,
    and as many as a multiple of `KEYS`, are not copied.
    """
    if _torchs(query, key, value):
        return fused_attention.attend(query, key, value, last, scale)
    n, heads, queries, size = query.shape
    keys, values, width = _filled(key), _filled(value), value.shape[-1]
    values = F.pad(values, (0, OUTPUTS - width)) if width < OUTPUTS else values
    grouped = (query.float() * scale).view(n, key.shape[1], -1, queries, size)
    attended = query.new_empty(*grouped.shape[:4], width)
    for first in range(0, queries, QUERIES):
        some = slice(first, first + QUERIES)
        used = -(-(int(last[:, some].max()) + 1) // KEYS) * KEYS
        together = max(SCORES // (heads * min(QUERIES, queries) * used), 1)
        for sequence in range(0, n, together):
            own = slice(sequence, sequence + together)
            seen = keys[own, :, :used], values[own, :, :used], last[own, some]
            attended[own, :, :, some] = _attended(grouped[own, :, :, some], *seen)[..., :width]
    return attended.view(n, heads, queries, -1)


def _whole_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The same of whole sequences."""
    if _torchs(query, key, value):
        return fused_attention.attend_whole(query, key, value, scale)
    return attention(query, key, value, torch.arange(query.shape[2]).expand(query.shape[0], -1), scale)


def _torchs(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return torch_attends_alike(query.shape[1], key.shape[1], query.shape[-1], value.shape[-1], query.dtype)


def _attended(query: Tensor, keys: Tensor, values: Tensor, last: Tensor) -> Tensor:
    """Of some queries [n, key heads, shared, q, d], scaled: [n, key heads, shared, q, e]."""
    shared, queries = query.shape[2:4]
    rows = query.flatten(2, 3)
    rows = F.pad(rows, (0, 0, 0, -rows.shape[2] % ROWS))
    scores = torch.matmul(rows, keys.transpose(-1, -2))  # [n, key heads, rows, keys]
    everyone = (int(last.min()) + 1) // KEYS * KEYS  # keys that each of them sees
    hidden = torch.arange(everyone, keys.shape[2]) > last[:, None, None, :, None]
    of_queries = scores[:, :, : shared * queries, everyone:].unflatten(2, (shared, queries))
    of_queries.masked_fill_(hidden, float("-inf"))
    weights = torch.softmax(scores, -1)
    span = span_of(values.shape[-1])
    total, *others = (
        torch.matmul(some, of_values)
        for some, of_values in zip(weights.split(span, 3), values.split(span, 2), strict=True)
    )
    for other in others:
        total += other
    return total[:, :, : shared * queries].unflatten(2, (shared, queries))


@functools.cache
def span_of(width: int) -> int:
    """The span in which this machine sums values of that width: `KEYS`, which has no parts, where no other will do."""
    return next(span for span in SPANS if _sums_parts_alike(span, width))


def _sums_parts_alike(span: int, width: int) -> bool:
    """Whether the first keys of a span are summed as they are where all of them are there and count for nothing."""
    values = terms((1,), span, KEYS, width, torch.float32)
    weights, _ = factors((1, QUERIES), (1,), span, torch.float32)
    for keys in range(KEYS, span, KEYS):
        of_these = torch.where(torch.arange(span) < keys, weights, 0.0)
        if not torch.equal(torch.matmul(of_these, values), torch.matmul(of_these[..., :keys], values[:, :keys])):
            return False
    return True


def _filled(x: Tensor) -> Tensor:
    """Keys or values [n, heads, k, d] in float32, filled up with zeros to a multiple of `KEYS`."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % KEYS)) if x.shape[2] % KEYS else x
    return x.to(torch.float32, memory_format=torch.contiguous_format).contiguous()


class _CausalAttention(torch.autograd.Function):
    """The attention by blocks of whole sequences; its gradient is that of torch's attention."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        return _whole_attention(query, key, value, scale)

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
    return torch.sigmoid(F.pad(x, (0, 0, 0, -x.shape[0] % _TOGETHER)))[: x.shape[0]]


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
    largest, total = logits.new_full((len(logits),), NOTHING), logits.new_zeros(len(logits))
    for words in logits.split(WORDS, 1):
        block = words.clone()
        change = shift(largest, block)
        add_block(total, block.exp_(), change)
    return logits.gather(1, chosen[:, None])[:, 0] - largest - total.log()


def head(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits by the blocks of the vocabulary: [n, hidden], [vocabulary, hidden] -> [n, vocabulary]."""
    return torch.cat([product(hidden, words) for words in weight.split(WORDS)], 1)
