"""Attention of SGLang's torch_native backend: several requests at a time, latent attention, and sparse as dense.

The backend attends request by request in Python, which bounds an engine that serves a small model: with 256 requests
and 4 layers that is a thousand calls per token. Here requests of similar length are padded to one call. The numbers
differ from the loop's by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PADDED_KEYS = 1 << 16
"""Most keys (requests x padded length) of one call; bounds the gathered copies of keys and values."""

PADDED_SCORES = 1 << 24
"""Most entries (requests x queries x keys) of one call's mask."""

PADDING = 1.25
"""How much longer than the shortest request of a call the longest may be, besides `SLACK` keys."""

SLACK = 16


def masked_attention(query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
    """softmax(Q K^T scale) V over each query's own keys, the first `last` + 1 of its request.

    Shapes: query [n, heads, q, d], key, value [n, key heads, k, d], last int64 [n, q] -> [n, heads, q, d].
    """
    mask = (torch.arange(key.shape[2]) <= last[..., None])[:, None]
    shared = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=shared)


attend: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor] = masked_attention
"""What attends; `sglang_bitwise` puts another in its place."""

keys_together = 1
"""To multiples of this the keys of a call are filled up; `sglang_bitwise` puts that of its attention in its place."""


def batch_attention(module: Any) -> None:
    """sglang.srt.layers.attention.torch_native_backend: replace its two loops where they attend plain causal text."""
    backend = module.TorchNativeAttnBackend
    loop_extend, loop_decode = backend._run_sdpa_forward_extend, backend._run_sdpa_forward_decode

    def decode(self: Any, *tensors: Any, **options: Any) -> Tensor:
        query, output, keys, values, table, requests, lengths, encoder = tensors
        if encoder is not None or not _plain(query, keys, values, options):
            return loop_decode(self, *tensors, **options)
        new = torch.ones_like(lengths)
        return _attend(query, output, keys, values, table, requests, lengths, new, options)

    def extend(self: Any, *tensors: Any, **options: Any) -> Tensor:
        query, output, keys, values, table, requests, lengths, _, new, encoder = tensors
        if encoder is not None or not options["causal"] or not _plain(query, keys, values, options):
            return loop_extend(self, *tensors, **options)
        return _attend(query, output, keys, values, table, requests, lengths, new, options)

    backend._run_sdpa_forward_decode = decode
    backend._run_sdpa_forward_extend = extend


def latent_attention(module: Any) -> None:
    """sglang.srt.models.deepseek_common.attention_backend_handler: latent attention of torch_native always attends to
    the compressed keys, which its cache has; otherwise a prefill takes them for keys and values of every head.
    """
    absorbed = module.AttnForwardMethod.MLA
    module.AttentionBackendRegistry.register("torch_native", lambda attention, batch: absorbed)


def dense_attention(module: Any) -> None:
    """sglang.srt.configs.model_config: sparse attention (DSA) is served as what it is up to `index_topk` tokens, latent
    attention to all of them; its kernels are GPUs' alone. Indexers are not made, and their tensors passed over.
    """
    module.is_deepseek_dsa = lambda config: False


def rotary_positions(module: Any) -> None:
    """sglang.srt.layers.rotary_embedding.factory: models that ask for CPU kernels and have no scaling get the plain
    rotary positions, which those kernels do not have.
    """
    scaled, plain = module.get_rope_wrapper, module.get_rope

    def get_rope_wrapper(*sizes: Any, rope_scaling: Any = None, device: Any = None, **options: Any) -> Any:
        if rope_scaling is None:
            return plain(*sizes, **options)
        return scaled(*sizes, rope_scaling=rope_scaling, device=device, **options)

    module.get_rope_wrapper = get_rope_wrapper


def _plain(query: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]) -> bool:
    """Neither cross-attention nor a sliding window, and one dtype."""
    window = options["sliding_window_size"]
    narrow = window is not None and window >= 0
    return not options["is_cross_attn"] and not narrow and query.dtype == keys.dtype == values.dtype


def _attend(
    query: Tensor,
    output: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    table: Tensor,
    requests: Tensor,
    lengths: Tensor,
    new: Tensor,
    options: dict[str, Any],
) -> Tensor:
    """Causal attention of the last `new[i]` of `lengths[i]` tokens of each request.

    Shapes: query, output [tokens, heads, d], the requests' new tokens one after another; k_cache, v_cache [slots,
    kv heads, d]; table [requests, context] slot of each token; requests, lengths, new [n].
    """
    starts = torch.cumsum(new, 0) - new
    for chunk in _chunks(lengths.tolist(), new.tolist()):
        rows = torch.tensor(chunk)
        long, fresh = lengths[rows, None], new[rows, None]
        width, depth = int(long.max()), int(fresh.max())
        slots = table[requests[rows], :width].long().masked_fill(torch.arange(width) >= long, 0)
        slots = F.pad(slots, (0, -width % keys_together))
        # Position of each query in its request; in the place of those behind its end stands its last again.
        query_at = torch.minimum(torch.arange(depth), fresh - 1)
        where, last = (starts[rows, None] + query_at).long(), long - fresh + query_at
        key, value = (_gathered(cache, slots) for cache in (k_cache, v_cache))
        out = attend(query[where].transpose(1, 2), key, value, last, options["scaling"])
        output[where] = out.transpose(1, 2)
    return output


def _gathered(cache: Tensor, slots: Tensor) -> Tensor:
    """What a cache [slots, heads, d] has in some slots [n, k], head by head: [n, heads, k, d]."""
    _, heads, size = cache.shape
    rows = slots[:, None] * heads + torch.arange(heads)[:, None]
    return cache.view(-1, size).index_select(0, rows.view(-1)).view(*rows.shape, size)


def _chunks(lengths: list[int], new: list[int]) -> list[list[int]]:
    """Requests of similar length together, so that padding stays small. Every request is in one chunk."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], new[i]))
    chunks: list[list[int]] = []
    deepest = 0
    for i in order:
        if chunks and lengths[i] <= PADDING * lengths[chunks[-1][0]] + SLACK:
            size, depth = len(chunks[-1]) + 1, max(deepest, new[i])
            if size * lengths[i] <= PADDED_KEYS and size * depth * lengths[i] <= PADDED_SCORES:
                chunks[-1].append(i)
                deepest = depth
                continue
        chunks.append([i])
        deepest = new[i]
    return chunks
