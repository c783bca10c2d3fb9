"""Seeded sampling on the CPU: the torch hash is SGLang's hash, and seeds reach the batch."""

from __future__ import annotations

import types

import pytest
import torch

from rlscale.platform import sglang_seeded, sglang_stubs

MASK = 0xFFFFFFFF


def hash_by_hand(seed: int, position: int, column: int) -> int:
    """SGLang's kernel for one element, written with Python's own integers."""

    def rotate(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (32 - bits))) & MASK

    h = 0
    for block in (seed & MASK, (seed >> 32) & MASK, position & MASK, column & MASK):
        h ^= (rotate((block * 0xCC9E2D51) & MASK, 15) * 0x1B873593) & MASK
        h = (rotate(h, 13) * 5 + 0xE6546B64) & MASK
    h ^= 16
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & MASK
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & MASK
    return h ^ (h >> 16)


def test_the_torch_hash_equals_the_kernels_arithmetic_exactly() -> None:
    seeds = [0, 1, 7, 2**31 - 1, 2**40 + 12345, 2**63 - 1]
    positions = [0, 1, 5, 1000, 2**20, 2**31 - 1]
    columns = torch.arange(0, 3000, 7)
    got = sglang_seeded.murmur_hash32(torch.tensor(seeds), torch.tensor(positions), columns)
    want = [[hash_by_hand(s, p, c) for c in columns.tolist()] for s, p in zip(seeds, positions, strict=True)]
    assert got.tolist() == want


def test_the_torch_hash_takes_the_types_that_sglang_passes() -> None:
    seed, positions = torch.tensor([5, 6], dtype=torch.uint64), torch.tensor([3, 4], dtype=torch.int32)
    got = sglang_seeded.murmur_hash32(seed, positions, torch.arange(4))
    assert got[1, 2].item() == hash_by_hand(6, 4, 2)


def test_hashes_are_uniform() -> None:
    values = sglang_seeded.murmur_hash32(torch.arange(300), torch.arange(300), torch.arange(200)).double() / 2**32
    assert abs(values.mean().item() - 0.5) < 0.005
    assert abs(values.std().item() - 12**-0.5) < 0.005


def request(rid: str, seed: int | None) -> types.SimpleNamespace:
    return types.SimpleNamespace(rid=rid, sampling_params=types.SimpleNamespace(sampling_seed=seed))


def test_a_batch_carries_its_requests_seeds_and_unseeded_ones_differ() -> None:
    class SamplingBatchInfo:
        @classmethod
        def from_schedule_batch(cls, batch: object, vocab_size: int) -> SamplingBatchInfo:
            return cls()

    module = types.ModuleType("sampling_batch_info")
    module.SamplingBatchInfo = SamplingBatchInfo  # type: ignore[attr-defined]  # a stand-in for SGLang's module
    sglang_seeded.adapt_batch(module)
    requests = [request("a", 7), request("b", None), request("c", None), request("d", 0)]
    info = SamplingBatchInfo.from_schedule_batch(types.SimpleNamespace(reqs=requests), vocab_size=5)
    seeds = info.sampling_seed.tolist()  # type: ignore[attr-defined]  # set by the adaptation
    assert seeds[0] == 7
    assert seeds[3] == 0
    assert len(set(seeds)) == 4
    again = SamplingBatchInfo.from_schedule_batch(types.SimpleNamespace(reqs=requests[::-1]), vocab_size=5)
    assert again.sampling_seed.tolist() == seeds[::-1]  # type: ignore[attr-defined]  # as above


def sampler_module() -> types.ModuleType:
    """What the adaptation needs of SGLang's sampler: Gumbel noise by column."""

    def multinomial_with_seed(logprobs: torch.Tensor, seed: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        columns = torch.arange(logprobs.shape[1])
        uniform = (sglang_seeded.murmur_hash32(seed, positions, columns).double() / MASK).clamp(1e-12, 1 - 1e-12)
        return (logprobs.double() - (-uniform.log()).log()).argmax(-1, keepdim=True)

    module = types.ModuleType("sampler")
    module.multinomial_with_seed = multinomial_with_seed  # type: ignore[attr-defined]  # a stand-in for SGLang's module
    module.top_k_top_p_min_p_sampling_from_probs_torch = None  # type: ignore[attr-defined]  # without seeds alone
    sglang_seeded.adapt_sampler(module)
    return module


def test_a_seed_draws_the_same_words_beside_greedy_requests_and_such_with_top_p() -> None:
    """As SGLang draws them where nobody in the batch has any of it."""
    module, words, rows = sampler_module(), 50, 400
    probs = torch.randn(rows, words, generator=torch.Generator().manual_seed(0)).softmax(-1)
    seeds, positions = torch.arange(rows), torch.arange(rows) % 7
    alone = module.multinomial_with_seed(probs.log(), seeds, positions).view(-1)
    top_ks, top_ps = torch.full((rows,), 1 << 30, dtype=torch.int32), torch.ones(rows)
    top_ks[1::3], top_ps[2::3] = 1, 0.6
    sample = module.top_k_top_p_min_p_sampling_from_probs_torch
    found = sample(probs, top_ks, top_ps, torch.zeros(rows), False, seeds, positions)
    assert found.dtype == torch.int32
    assert torch.equal(found[::3].long(), alone[::3])
    assert torch.equal(found[1::3].long(), probs.argmax(-1)[1::3])
    nucleus = ~sglang_seeded.left_out(probs, top_ks, top_ps)[2::3]
    assert nucleus.gather(1, found[2::3, None].long()).all()
    drawn_inside = nucleus.gather(1, alone[2::3, None])[:, 0]
    assert 0 < drawn_inside.sum() < len(drawn_inside)
    assert torch.equal(found[2::3][drawn_inside].long(), alone[2::3][drawn_inside])


def test_what_top_p_and_top_k_leave_out_by_hand() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]] * 4)
    found = sglang_seeded.left_out(probs, torch.tensor([9, 2, 9, 3]), torch.tensor([1.0, 1.0, 0.6, 0.3]))
    assert found.tolist() == [
        [False, False, False, False],
        [True, False, True, False],
        [True, False, True, False],
        [True, False, True, True],
    ]


def test_min_p_is_refused_by_an_error_of_the_request() -> None:
    class SamplingParams:
        min_p = 0.0

        def verify(self, vocab_size: int) -> None:
            pass

    module = types.ModuleType("sampling_params")
    module.SamplingParams = SamplingParams  # type: ignore[attr-defined]  # a stand-in for SGLang's module
    sglang_seeded.adapt_params(module)
    params = SamplingParams()
    params.verify(10)
    params.min_p = 0.1
    with pytest.raises(ValueError, match="min_p"):
        params.verify(10)


def test_cache_locations_are_written_and_read_back_per_request() -> None:
    table = torch.zeros(3, 8, dtype=torch.int32)
    rows, start, end = torch.tensor([2, 0]), torch.tensor([1, 4]), torch.tensor([3, 7])
    sglang_stubs.assign_req_to_token_pool_cpu(rows, table, start, end, torch.arange(10, 15), 8)
    assert table.tolist() == [[0, 0, 0, 0, 12, 13, 14, 0], [0] * 8, [0, 10, 11, 0, 0, 0, 0, 0]]
    read = torch.zeros(5, dtype=torch.int64)
    sglang_stubs.assign_extend_cache_locs_cpu(rows, table, start, end, read, 8)
    assert read.tolist() == [10, 11, 12, 13, 14]
