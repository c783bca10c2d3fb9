"""Operations with the same bits in every batch, held to float64 and to torch's gradients."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform import batch_invariant as invariant
from rlscale.platform.elementwise import rms_norm, rotate, swiglu

TYPES = [torch.float32, torch.bfloat16]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("width", "outputs"), [(64, 192), (1024, 256), (100, 37), (896, 1)])
def test_a_row_of_a_product_has_the_same_bits_in_every_batch(dtype: torch.dtype, width: int, outputs: int) -> None:
    weight, x = drawn(outputs, width, seed=1, dtype=dtype), drawn(1400, width, dtype=dtype)
    whole = invariant.linear(x, weight)
    for first, rows in ((0, 1), (7, 2), (63, 3), (1, 64), (60, 65), (100, 129), (11, 300), (200, 1025)):
        assert torch.equal(invariant.linear(x[first : first + rows], weight), whole[first : first + rows])
    shuffled = torch.randperm(1400, generator=torch.Generator().manual_seed(2))
    assert torch.equal(invariant.linear(x[shuffled], weight), whole[shuffled])


def test_a_product_is_that_of_float64() -> None:
    weight, x, bias = drawn(37, 100, seed=1), drawn(5, 3, 100), drawn(37, seed=2)
    wanted = F.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(invariant.linear(x, weight, bias).double(), wanted, rtol=0, atol=2e-5)


def test_no_rows_make_no_rows() -> None:
    assert invariant.linear(torch.zeros(0, 8), drawn(4, 8)).shape == (0, 4)


def test_the_gradients_of_a_product_are_torchs() -> None:
    weight, x = drawn(37, 100, seed=1).requires_grad_(), drawn(70, 2, 100).requires_grad_()
    outward = drawn(70, 2, 37, seed=3)
    own = torch.autograd.grad(invariant.linear(x, weight), (x, weight), outward)
    torchs = torch.autograd.grad(F.linear(x, weight), (x, weight), outward)
    for mine, wanted in zip(own, torchs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-4)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=4),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1)]),
    dtype=st.sampled_from(TYPES),
    cut=st.integers(0, 149),
)
def test_a_query_attends_with_the_same_bits_alone_and_beside_others(
    lengths: list[int], heads: tuple[int, int], dtype: torch.dtype, cut: int
) -> None:
    """Sequences of several lengths padded together; each alone; and only the queries behind a cached beginning."""
    longest = max(lengths)
    query, key, value = (drawn(len(lengths), n, longest, 16, seed=n, dtype=dtype) for n in (heads[0], *heads[1:] * 2))
    last = torch.arange(longest).expand(len(lengths), -1)
    together = invariant.attention(query, key, value, last, 0.25)
    for row, length in enumerate(lengths):
        first = min(cut, length - 1)
        one = slice(row, row + 1)
        alone = invariant.attention(
            query[one, :, first:length], key[one, :, :length], value[one, :, :length], last[one, first:length], 0.25
        )
        assert torch.equal(alone, together[one, :, first:length])


def test_attention_in_parts_has_the_bits_of_attention_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = drawn(2, 4, 90, 16), drawn(2, 2, 90, 16, seed=1), drawn(2, 2, 90, 16, seed=2)
    whole = invariant.causal_attention(query, key, value)
    monkeypatch.setattr(invariant, "SCORES", 2 * 4 * 90 * 7)  # seven queries at a time
    assert torch.equal(invariant.causal_attention(query, key, value), whole)


def test_attention_and_its_gradient_are_torchs() -> None:
    inputs = [drawn(2, n, 90, 16, seed=n).requires_grad_() for n in (4, 2, 2)]
    outward = drawn(2, 4, 90, 16, seed=9)
    own = invariant.causal_attention(*inputs, 0.3)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    wanted = F.scaled_dot_product_attention(*wide, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(own.double(), wanted, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(own, inputs, outward)
    for mine, theirs in zip(gradients, torch.autograd.grad(wanted, wide, outward.double()), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=1e-4)


HIDDEN, HEADS = 64, 4


def layer_and_logprobs(x: Tensor, lengths: list[int], cached: list[int]) -> Tensor:
    """Log-prob of word 3 behind each token of sequences packed one after another, all that a model computes with:

    norm, linears, rotary positions, attention, gated activation, head. Of each sequence only what follows `cached`
    tokens is computed among the others; keys and values of those are made of themselves, as by an engine before.
    """
    weights = [drawn(3 * HIDDEN, HIDDEN, seed=3), drawn(HIDDEN, HIDDEN, seed=4), drawn(2 * HIDDEN, HIDDEN, seed=5)]
    of_qkv, of_output, of_gates = (0.2 * weight.to(x.dtype) for weight in weights)
    norm = torch.ones(HIDDEN, dtype=x.dtype)

    def qkv(rows: Tensor, position: Tensor) -> Tensor:
        angles = position[:, None, None] * torch.tensor([1.0, 0.3, 0.1, 0.01, 0.5, 0.2, 0.7, 0.05])
        parts = invariant.linear(rms_norm(rows, norm, 1e-6), of_qkv).view(-1, 3 * HEADS, HIDDEN // HEADS)
        turned = rotate(parts[:, : 2 * HEADS], angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        return torch.cat([turned, parts[:, 2 * HEADS :]], 1).transpose(0, 1)

    sequences = list(zip(x.split(lengths), cached, strict=True))
    new = torch.cat([rows[first:] for rows, first in sequences])
    at = torch.cat([torch.arange(first, len(rows)) for rows, first in sequences])
    together = qkv(new, at).split([len(rows) - first for rows, first in sequences], 1)
    attended = []
    for (rows, first), own in zip(sequences, together, strict=True):
        whole = torch.cat([qkv(rows[:first], torch.arange(first)), own], 1)
        key, value = whole[HEADS : 2 * HEADS], whole[2 * HEADS :]
        last = torch.arange(first, len(rows))[None]
        query = own[:HEADS]
        attended.append(invariant.attention(query[None], key[None], value[None], last, 0.25)[0].transpose(0, 1))
    out = new + invariant.linear(torch.cat(attended).flatten(1), of_output)
    out = out + swiglu(invariant.linear(rms_norm(out, norm, 1e-6), of_gates))
    logits = invariant.head(out, drawn(50, HIDDEN, seed=6, dtype=x.dtype)).float()
    return invariant.logprobs(logits, torch.full((len(out),), 3))


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    dtype=st.sampled_from(TYPES),
    cuts=st.lists(st.integers(0, 399), min_size=5, max_size=5),
)
def test_a_token_has_the_same_bits_in_random_batches_behind_cached_beginnings_and_alone(
    lengths: list[int], dtype: torch.dtype, cuts: list[int]
) -> None:
    x = drawn(sum(lengths), HIDDEN, dtype=dtype)
    whole = layer_and_logprobs(x, lengths, [0] * len(lengths)).split(lengths)
    cached = [min(cut, length - 1) for cut, length in zip(cuts, lengths, strict=False)]
    behind = layer_and_logprobs(x, lengths, cached)
    assert torch.equal(behind, torch.cat([one[first:] for one, first in zip(whole, cached, strict=True)]))
    for rows, length, one in zip(x.split(lengths), lengths, whole, strict=True):
        assert torch.equal(layer_and_logprobs(rows, [length], [0]), one)
        assert torch.equal(layer_and_logprobs(rows, [length], [length - 1]), one[-1:])


@pytest.mark.parametrize("words", [11, 4096, 9000])
def test_logprobs_are_those_of_float64_and_of_each_row_alone(words: int) -> None:
    hidden, weight = drawn(9, 32), drawn(words, 32, seed=1)
    chosen = torch.arange(9) * (words // 9)
    logits = invariant.head(hidden, weight)
    own = invariant.logprobs(logits, chosen)
    wanted = F.log_softmax(hidden.double() @ weight.double().t(), -1).gather(1, chosen[:, None])[:, 0]
    torch.testing.assert_close(own.double(), wanted, rtol=0, atol=2e-5)
    alone = [invariant.logprobs(invariant.head(hidden[i, None], weight), chosen[i, None]) for i in range(9)]
    assert torch.equal(torch.cat(alone), own)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "key_heads", "value_size"), [(4, 2, None), (2, 2, None), (2, 2, 24), (4, 4, 10)])
def test_the_machine_is_asked_whether_attention_is_independent(
    dtype: torch.dtype, heads: int, key_heads: int, value_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invariant.attention_is_independent(heads, key_heads, 16, dtype, value_size)

    def at_once(query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
        assert (query.shape[-1], key.shape[-1], value.shape[-1]) == (16, 16, value_size or 16)
        return own(query, key, value, last, scale) + key.shape[2]

    own = invariant.attention
    monkeypatch.setattr(invariant, "attention", at_once)
    assert not invariant.attention_is_independent(heads, key_heads, 16, dtype, value_size)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """What the machine says in a test is nobody else's."""
    invariant.span_of.cache_clear()
    yield
    invariant.span_of.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_the_span_is_one_whose_parts_this_machine_sums_as_it_sums_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.matmul

    def other_order(some: Tensor, of_values: Tensor) -> Tensor:
        """Of 192 keys two halves by themselves, as libraries on some CPUs do."""
        if some.shape[-1] != 192:
            return own(some, of_values)
        return own(some[..., 96:], of_values[..., 96:, :]) + own(some[..., :96], of_values[..., :96, :])

    monkeypatch.setattr(torch, "matmul", other_order)
    assert invariant.span_of(16) == 128
    monkeypatch.setattr(torch, "matmul", lambda *_: torch.randn(1, 1))
    assert invariant.span_of(32) == invariant.KEYS
