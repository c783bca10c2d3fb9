"""Sampling by a seed per request in SGLang on the CPU.

SGLang draws a token as argmax of log p + Gumbel noise, the noise hashed from (seed of the request, position, token), so
the same seed gives the same tokens in any batch. Two things keep it from the CPU: the seeds are handed to the sampler
only under `--enable-deterministic-inference` (which needs GPU operations), and the hash is a Triton kernel. Both are
replaced here; the sampler's own arithmetic is untouched.

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


def adapt_params(module: types.ModuleType) -> None:
    """sglang.srt.sampling.sampling_params: `min_p` is an error of the request instead of the end of the server."""
    params: Any = module.SamplingParams
    original = params.verify

    def verify(self: Any, vocab_size: int) -> None:
        original(self, vocab_size)
        if self.min_p > 0:
            raise ValueError("min_p cannot be used on the CPU engine, where every request is sampled by a seed")

    params.verify = verify
