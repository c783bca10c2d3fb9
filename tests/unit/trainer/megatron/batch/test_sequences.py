"""The layout of packed micro-batches: padding, zig-zag slices, and attention in batches of similar length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rlscale.data.batches.packing import plan
from rlscale.trainer.megatron.batch.sequences import PackedSequences, pack
from rlscale.trainer.megatron.ranks.slicing import Slicing

CPU = torch.device("cpu")
LENGTHS = [5, 70, 1, 12, 11, 33, 70]


def test_without_parallelism_nothing_is_padded() -> None:
    packed = pack([3, 2], Slicing(), CPU, attend=True)
    assert packed.cu_seqlens_q.tolist() == [0, 3, 5]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1]
    assert packed.segment_of.tolist() == [0, 0, 0, 1, 1]
    assert packed.token_of.tolist() == [0, 1, 2, 3, 4]
    assert packed.next_of.tolist() == [1, 2, -1, 4, -1]


def test_zigzag_gives_each_rank_its_two_chunks_of_every_segment() -> None:
    # Segments of 5 and 3 are padded to 8 and 4: chunks of 2 and 1 tokens for two ranks.
    first, second = (pack([5, 3], Slicing(2, rank), CPU, attend=True) for rank in range(2))
    assert first.cu_seqlens_q.tolist() == [0, 8, 12]
    assert first.positions.tolist() == [0, 1, 6, 7, 0, 3]
    assert second.positions.tolist() == [2, 3, 4, 5, 1, 2]
    assert first.token_of.tolist() == [0, 1, -1, -1, 5, -1]
    assert second.token_of.tolist() == [2, 3, 4, -1, 6, 7]
    assert second.next_of.tolist() == [3, 4, -1, -1, 7, -1]


@pytest.mark.parametrize("slicing", [Slicing(1, 0, 4), Slicing(2, 1, 2), Slicing(4, 3, 1), Slicing(2, 0, 3)])
@pytest.mark.parametrize("lengths", [[], [1], LENGTHS])
def test_every_layout_divides_evenly_and_loses_nothing(slicing: Slicing, lengths: list[int]) -> None:
    ranks = [pack(lengths, Slicing(slicing.context_size, r, slicing.tensor_size), CPU, attend=True)
             for r in range(slicing.context_size)]  # fmt: skip
    sizes = {packed.local_tokens for packed in ranks}
    assert len(sizes) == 1
    assert next(iter(sizes)) % slicing.tensor_size == 0
    assert next(iter(sizes)) > 0
    seen = np.concatenate([packed.token_of for packed in ranks])
    assert sorted(seen[seen >= 0]) == list(range(sum(lengths)))
    predicted = np.concatenate([packed.next_of for packed in ranks])
    starts = set(np.cumsum([0, *lengths])[:-1].tolist())
    assert sorted(predicted[predicted >= 0]) == [t for t in range(sum(lengths)) if t not in starts]


@pytest.mark.parametrize("slicing", [Slicing(), Slicing(1, 0, 8), Slicing(2, 0, 1), Slicing(2, 1, 8), Slicing(4, 0, 3)])
def test_a_microbatch_that_was_planned_for_the_layout_does_not_pass_the_cap(slicing: Slicing) -> None:
    cap, lengths = 200, np.random.default_rng(0).integers(1, 90, 150)
    padding = slicing.padding
    division = plan(lengths, np.zeros(150, int), 1, cap, padding.row, total=padding.total)
    packed = [pack(lengths[rows], slicing, CPU, attend=False) for rows in division.parts[0][0]]
    sizes = [one.local_tokens * slicing.context_size for one in packed]
    assert max(sizes) <= cap
    assert np.mean(sizes) > 0.85 * cap


def attend(packed: PackedSequences, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    outputs = []
    for batch in packed.batches:
        out = F.scaled_dot_product_attention(
            batch.take(query, batch.queries),
            batch.take(key, batch.keys),
            batch.take(value, batch.keys),
            attn_mask=batch.mask,
            is_causal=batch.mask is None,
            enable_gqa=True,
        )
        outputs.append(out.transpose(1, 2).reshape(batch.queries.numel(), -1))
    together = torch.cat(outputs)
    return together if packed.restore is None else together[packed.restore]


def one_by_one(lengths: list[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
    results = []
    for q, k, v in zip(*(x.split(lengths) for x in (query, key, value)), strict=True):
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        results.append(out[0].transpose(0, 1).flatten(1))
    return results


@pytest.mark.parametrize("lengths", [LENGTHS, [8, 8, 8], [400, 3, 390, 120]])
def test_attention_in_batches_equals_attention_one_by_one(lengths: list[int]) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    inputs = [torch.randn(total, heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    got = attend(pack(lengths, Slicing(), CPU, attend=True), *inputs)
    expected = torch.cat(one_by_one(lengths, *inputs))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    weight = torch.randn_like(got)
    for mine, theirs in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_zigzag_attention_of_all_ranks_equals_attention_of_one(size: int) -> None:
    torch.manual_seed(0)
    total = sum(LENGTHS)
    query, key, value = (torch.randn(total, heads, 8) for heads in (4, 2, 2))
    ranks = [pack(LENGTHS, Slicing(size, rank), CPU, attend=True) for rank in range(size)]

    def local(x: torch.Tensor, packed: PackedSequences) -> torch.Tensor:
        index = torch.from_numpy(packed.token_of)
        return torch.where((index >= 0)[:, None, None], x[index.clamp(min=0)], 0.0)

    keys, values = (torch.cat([local(x, packed) for packed in ranks]) for x in (key, value))
    expected = torch.cat(one_by_one(LENGTHS, query, key, value))
    for packed in ranks:
        got = attend(packed, local(query, packed), keys, values)
        real = packed.token_of >= 0
        torch.testing.assert_close(got[torch.from_numpy(real)], expected[packed.token_of[real]], atol=1e-6, rtol=1e-5)


def test_segments_of_similar_length_share_one_call() -> None:
    random = np.random.default_rng(0)
    assert len(pack(random.integers(5, 15, 512), Slicing(), CPU, attend=True).batches) == 1
    assert len(pack([1000, 990, 980, 40, 30], Slicing(), CPU, attend=True).batches) == 2
