"""Torch's own attention, called in such a way that in 16 bits a query's result does not depend on what is beside it.

Its kernel for the CPU takes blocks of queries and of keys, sums in float32 and rounds once. Of a block of one query it
takes other products than of several, and of numbers of keys that are no multiple of 32 other sums. So neither is asked
of it: queries are an even number. That nothing else matters is promised nowhere: `batch_invariant.torch_attends_alike`
asks the machine.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TOGETHER = 32
"""To multiples of this keys are filled up, and queries of whole sequences with them."""


def attend(query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
    """softmax(Q K^T scale) V over each query's own keys, the first `last` + 1 of its sequence; without gradient.

    Shapes: query [n, heads, q, d], key [n, key heads, k, d], value [n, key heads, k, e], e at most d, last int64
    [n, q] -> [n, heads, q, e].
    """
    queries, key, values = query.shape[2], _filled(key), _filled(_as_wide(value, key))
    if queries == 1:  # those that share keys are the rows of one product
        query = query.unflatten(1, (key.shape[1], -1)).squeeze(3)
    rows = query.shape[2]
    if rows % 2:
        query, last = F.pad(query, (0, 0, 0, 1)), F.pad(last, (0, queries > 1))
    mask = (torch.arange(key.shape[2]) <= last[..., None])[:, None]
    attended = _torchs(query, key, values, scale, mask)[:, :, :rows, : value.shape[-1]]
    return attended.flatten(1, 2)[:, :, None] if queries == 1 else attended


def attend_whole(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The same of sequences of which every token attends to itself and those before it, q = k."""
    filled = _filled(query), _filled(key), _filled(_as_wide(value, key))
    return _torchs(*filled, scale)[:, :, : query.shape[2], : value.shape[-1]]


def _torchs(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    shared = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=shared
    )


def _as_wide(value: Tensor, key: Tensor) -> Tensor:
    """Values as wide as keys, filled up with zeros: the kernel has one width."""
    missing = key.shape[-1] - value.shape[-1]
    return F.pad(value, (0, missing)) if missing else value


def _filled(x: Tensor) -> Tensor:
    """[n, heads, tokens, d], filled up with zeros to a multiple of `TOGETHER`."""
    missing = -x.shape[2] % TOGETHER
    return F.pad(x, (0, 0, 0, missing)) if missing else x
