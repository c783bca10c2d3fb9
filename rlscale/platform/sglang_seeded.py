"""Sampling by a seed per request in SGLang on the CPU.

SGLang draws a token as argmax of log p + Gumbel noise, the noise hashed from (seed of the request, position, token), so
the same seed gives the same tokens in any batch. Two things keep it from the CPU: the seeds are handed to the sampler
only under `--enable-deterministic-inference` (which needs GPU operations), and the hash is a Triton kernel. Both are
replaced here. And on any device it does not hold in company of a request with top-p or top-k, a greedy one among them:
the noise goes by the rank of a word then, not by its id, for all requests of the batch. So it goes by ids here.

A request without a seed gets one from its request id, so unseeded requests still differ. `min_p` together with seeds
stops SGLang's sampler by an assertion that would end the server, so such a request is refused with an error of its own.
"""

from __future__ import annotations

import types
import zlib
from typing import Any

import torch

_MASK = 0xFFFFFFFF


def _rotate(x: torch.Tensor, bits: int) -> torch.Tensor:
    return ((x << bits) | (x >> (32 - bits))) & _MASK


def _mix(state: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """One block of MurmurHash3 (32 bit) in int64, which holds every product of a 32-bit value and a constant exactly
    in its low 32 bits (int64 wraps modulo 2^64)."""
    key = (_rotate((key * 0xCC9E2D51) & _MASK, 15) * 0x1B873593) & _MASK
    return (_rotate(state ^ key, 13) * 5 + 0xE6546B64) & _MASK


def murmur_hash32(seed: torch.Tensor, positions: torch.Tensor, col_indices: torch.Tensor) -> torch.Tensor:
    """The hash of sglang.kernels.ops.sampling.murmur_hash, in torch: same blocks, same constants, same result.

    Shapes: seed [n] (64 bit), positions [n], col_indices [m] -> int64 [n, m] with values in [0, 2^32).
    """
    seed = seed.to(torch.int64)
    state = _mix(torch.zeros_like(seed), seed & _MASK)
    state = _mix(state, (seed >> 32) & _MASK)
    state = _mix(state, positions.to(torch.int64) & _MASK)
    state = _mix(state[:, None], col_indices.to(torch.int64)[None, :] & _MASK)
    state = state ^ 16  # the length in bytes of the four blocks
    state = ((state ^ (state >> 16)) * 0x85EBCA6B) & _MASK
    state = ((state ^ (state >> 13)) * 0xC2B2AE35) & _MASK
    return state ^ (state >> 16)


def seed_of(request: Any) -> int:
    """The seed of one SGLang request: its own, or one from its id (the same on every tensor-parallel rank)."""
    params = request.sampling_params
    if params.sampling_seed is None:
        params.sampling_seed = zlib.crc32(str(request.rid).encode()) & 0x7FFFFFFF
    return params.sampling_seed


def adapt_hash(module: types.ModuleType) -> None:
    """sglang.kernels.ops.sampling.murmur_hash: the torch hash in place of the Triton one."""
    module.murmur_hash32 = murmur_hash32  # type: ignore[attr-defined]  # a module's attributes are open


def adapt_batch(module: types.ModuleType) -> None:
    """sglang.srt.sampling.sampling_batch_info: every batch carries the seeds of its requests."""
    batch_info: Any = module.SamplingBatchInfo
    original = batch_info.from_schedule_batch.__func__

    def from_schedule_batch(cls: type, batch: Any, vocab_size: int) -> Any:
        info = original(cls, batch, vocab_size)
        info.sampling_seed = torch.tensor([seed_of(request) for request in batch.reqs], dtype=torch.int64)
        return info

    batch_info.from_schedule_batch = classmethod(from_schedule_batch)


def adapt_sampler(module: types.ModuleType) -> None:
    """sglang.srt.layers.sampler: a word's noise is that of its id, whatever else its batch samples with."""
    original = module.top_k_top_p_min_p_sampling_from_probs_torch

    def sample(
        probs: torch.Tensor,
        top_ks: torch.Tensor,
        top_ps: torch.Tensor,
        min_ps: torch.Tensor,
        need_min_p_sampling: bool,
        sampling_seed: torch.Tensor | None,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        if sampling_seed is None or need_min_p_sampling:
            return original(probs, top_ks, top_ps, min_ps, need_min_p_sampling, sampling_seed, positions)
        kept = probs.masked_fill(left_out(probs, top_ks, top_ps), 0.0)
        return module.multinomial_with_seed(kept.log(), sampling_seed, positions).view(-1).to(torch.int32)

    module.top_k_top_p_min_p_sampling_from_probs_torch = sample  # type: ignore[attr-defined]  # a module's attributes are open


def left_out(probs: torch.Tensor, top_ks: torch.Tensor, top_ps: torch.Tensor) -> torch.Tensor:
    """Which words are not drawn: bool [n, words], for probs [n, words], top_ks and top_ps [n].

    As SGLang has it: those behind the `top_k` likeliest, and those before which more than `top_p` has been reached. A
    `top_p` of 1 leaves nothing out, also where rounding lets the sum pass it.
    """
    ranked, words = probs.sort(dim=-1, descending=True, stable=True)
    top_ps, top_ks = top_ps.view(-1, 1), top_ks.view(-1, 1)
    behind = (ranked.cumsum(-1) - ranked > top_ps) & (top_ps < 1)
    behind |= torch.arange(probs.shape[-1], device=probs.device) >= top_ks
    return torch.zeros_like(behind).scatter_(1, words, behind)


def adapt_params(module: types.ModuleType) -> None:
    """sglang.srt.sampling.sampling_params: `min_p` is an error of the request instead of the end of the server."""
    params: Any = module.SamplingParams
    original = params.verify

    def verify(self: Any, vocab_size: int) -> None:
        original(self, vocab_size)
        if self.min_p > 0:
            raise ValueError("min_p cannot be used on the CPU engine, where every request is sampled by a seed")

    params.verify = verify
