"""Log-probs and entropies from hidden states: values and gradients against torch's own log_softmax, and memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from rlscale.trainer.megatron.steps import logprobs
from tests.unit.trainer.megatron.steps.plain_logprobs import (
    TILINGS,
    Group,
    assert_close,
    fused,
    plain,
    supports,
    tensors,
    tile,
)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("vocabulary", [20, 17])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_log_softmax_in_float64(
    tiling: tuple[int, int], vocabulary: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile(monkeypatch, *tiling)
    hidden, weight, labels = tensors(used=vocabulary)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    factors = torch.randn(2, len(labels))
    got = fused(
        hidden, weight, labels, temperature=temperature, vocabulary=vocabulary, entropy=True, entropy_gradient=True
    )
    expected = plain(*exact, labels, temperature, vocabulary)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype is torch.float32
        assert_close(mine, theirs)
    for share in ([1, 0], [0, 1], [1, 1]):  # of log-probs, of entropies, of both
        loss = [sum(s * f @ x.to(f) for s, f, x in zip(share, factors, side, strict=True)) for side in (got, expected)]
        mine = torch.autograd.grad(loss[0], (hidden, weight), retain_graph=True)
        theirs = torch.autograd.grad(loss[1], exact, retain_graph=True)
        for one, other in zip(mine, theirs, strict=True):
            assert_close(one, other)
        assert (mine[1][vocabulary:] == 0).all()


@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("tiling", TILINGS)
def test_gradients_are_finite_differences(
    tiling: tuple[int, int], entropy_gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile(monkeypatch, *tiling)
    hidden, weight, labels = tensors(5, 7, 3, torch.float64)

    def run(hidden: Tensor, weight: Tensor) -> Any:
        options = {"temperature": 0.8, "vocabulary": 6, "entropy": entropy_gradient}
        both = fused(hidden, weight, labels.clamp(max=5), entropy_gradient=entropy_gradient, **options)
        return both if entropy_gradient else both[0]

    assert torch.autograd.gradcheck(run, (hidden, weight))


def test_tiling_changes_results_by_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, labels = tensors(67, 301, 32)
    results = []
    for tiling in [(67, 1 << 20), (10, 70), (67, 67), (1, 301)]:
        tile(monkeypatch, *tiling)
        value, entropy = fused(hidden, weight, labels, entropy=True, entropy_gradient=True)
        results.append([value, entropy, *torch.autograd.grad(value.sum() - entropy.sum(), (hidden, weight))])
    for other in results[1:]:
        for mine, theirs in zip(other, results[0], strict=True):
            assert_close(mine, theirs)


def test_log_probs_have_the_same_bits_with_and_without_entropies() -> None:
    hidden, weight, labels = tensors(33, 500, 16)
    assert torch.equal(fused(hidden, weight, labels)[0], fused(hidden, weight, labels, entropy=True)[0])


def test_entropy_as_a_metric_has_no_gradient() -> None:
    hidden, weight, labels = tensors()
    value, entropy = fused(hidden, weight, labels, entropy=True)
    assert not entropy.requires_grad
    (with_entropy,) = torch.autograd.grad(value.sum(), hidden)
    (without,) = torch.autograd.grad(fused(hidden, weight, labels)[0].sum(), hidden)
    assert torch.equal(with_entropy, without)


def test_large_logits_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    tile(monkeypatch, 2, 4)
    hidden, weight, labels = tensors()
    got = fused(100 * hidden, weight, labels, entropy=True)
    expected = plain(100 * hidden.double(), weight.double(), labels)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.isfinite().all()
        assert_close(mine, theirs)


def test_sixteen_bit_products_are_reduced_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    tile(monkeypatch, 8, 128)
    hidden, weight, labels = tensors(16, 64, 32, torch.bfloat16)
    value, entropy = fused(hidden, weight, labels, entropy=True)
    logp = F.linear(hidden, weight).double().log_softmax(-1)  # of the rounded products
    assert value.dtype is entropy.dtype is torch.float32
    assert_close(value, logp.gather(1, labels[:, None])[:, 0])
    assert_close(entropy, -(logp.exp() * logp).sum(-1))
    mine = torch.autograd.grad(value.sum(), (hidden, weight))
    theirs = torch.autograd.grad(logp.gather(1, labels[:, None]).sum(), (hidden, weight))
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype is torch.bfloat16
        assert (one - other).abs().max() <= 2**-6 * other.abs().max()


def test_probabilities_under_the_range_of_float16_have_a_gradient() -> None:
    """Of 262,144 words of about the same probability: 4e-6, where float16 has steps of 6e-8."""
    hidden, weight, labels = tensors(4, 2**18, 32, torch.float16)
    weight = (weight.detach() / 30).requires_grad_()
    upstream = torch.full((4,), 2.0**16 / 8192)  # the factor of the loss over a step's tokens
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logp = F.linear(*exact).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    mine = torch.autograd.grad((fused(hidden, weight, labels)[0] * upstream).sum(), (hidden, weight))
    theirs = torch.autograd.grad((logp * upstream).sum(), exact)
    others = torch.ones(2**18, dtype=torch.bool).index_fill(0, labels, False)
    assert (mine[1][others] - theirs[1][others]).norm() <= 1e-3 * theirs[1][others].norm()
    assert (mine[0] - theirs[0]).norm() <= 1e-3 * theirs[0].norm()


def test_no_tokens_give_nothing_and_no_gradient() -> None:
    hidden, weight, labels = tensors(0)
    value, entropy = fused(hidden, weight, labels, entropy=True, entropy_gradient=True)
    assert value.shape == entropy.shape == (0,)
    grad_hidden, grad_weight = torch.autograd.grad(value.sum() + entropy.sum(), (hidden, weight))
    assert grad_hidden.shape == (0, 6)
    assert (grad_weight == 0).all()


def test_frozen_weight_gets_no_gradient() -> None:
    hidden, weight, labels = tensors()
    expected = torch.autograd.grad(fused(hidden, weight, labels)[0].sum(), hidden)
    weight.requires_grad_(False)
    fused(hidden, weight, labels)[0].sum().backward()
    assert weight.grad is None
    assert torch.equal(hidden.grad, expected[0])


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("vocabulary", [20, 17, 9])
def test_two_ranks_add_up_to_one(vocabulary: int, limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two ranks with half of the rows; with 9 words the second has nothing but padding.

    `limited`: some labels were drawn from a few words, which one rank may have none of.
    """
    tile(monkeypatch, 4, 12)
    hidden, weight, labels = tensors(used=vocabulary)
    said: list[Tensor] = [torch.empty(0)] * 2
    rank = 0

    def all_gather(out: Tensor, own: Tensor, group: Group) -> None:
        said[rank] = own.clone()
        out.copy_(torch.cat([x if len(x) else own for x in said]))

    monkeypatch.setattr(logprobs.dist, "all_gather_into_tensor", all_gather)
    options: dict[str, Any] = {"vocabulary": vocabulary, "entropy": True, "entropy_gradient": True}
    if limited:
        options["support"] = supports(labels, vocabulary, 4)

    def of_rank(number: int) -> list[Tensor]:
        nonlocal rank
        rank = number
        half = weight.detach()[10 * number : 10 * number + 10].clone().requires_grad_()
        value, entropy = fused(hidden, half, labels, group=Group(number, 2), **options)
        return [value, entropy, *torch.autograd.grad(value.sum() - 2 * entropy.sum(), (hidden, half))]

    for number in (0, 1):
        of_rank(number)  # only now each knows what the other says
    first, second = of_rank(0), of_rank(1)
    value, entropy = fused(hidden, weight, labels, **options)
    grad_hidden, grad_weight = torch.autograd.grad(value.sum() - 2 * entropy.sum(), (hidden, weight))
    for mine, theirs, whole in zip(first[:2], second[:2], (value, entropy), strict=True):
        assert torch.equal(mine, theirs)
        assert_close(mine, whole)
    assert_close(first[2] + second[2], grad_hidden)
    assert_close(torch.cat([first[3], second[3]]), grad_weight)


@pytest.mark.parametrize("tied", [False, True])
def test_gradient_of_a_parameter_of_megatrons_ddp_is_counted_once(tied: bool) -> None:
    """DDP's hook adds `grad` to `main_grad` unless the flags say that it is there already; two micro-batches."""
    hidden, weight, labels = tensors()
    tokens = torch.arange(9)

    def loss(weight: Tensor) -> Tensor:
        embedded = F.embedding(tokens, weight).sum() if tied else 0.0
        return fused(hidden, weight, labels)[0].sum() + embedded

    (expected,) = torch.autograd.grad(loss(weight), weight)
    parameter: Any = weight.detach().clone().requires_grad_()
    parameter.main_grad, parameter.grad_added_to_main_grad = torch.zeros_like(weight), False
    if tied:
        parameter.zero_out_wgrad = True
    for _ in range(2):
        loss(parameter).backward()
        assert parameter.grad is not None  # DDP with overlap insists
        if not parameter.grad_added_to_main_grad or getattr(parameter, "zero_out_wgrad", False):
            parameter.main_grad.add_(parameter.grad)
        parameter.grad = None
    assert_close(parameter.main_grad, 2 * expected)


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that the allocator held during the call, over what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        kept = call()
    assert recorded.profiler is not None
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    del kept
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_memory_is_a_few_tiles_and_not_the_logits(
    backward: bool, entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile(monkeypatch, 256, 1 << 15)
    hidden, weight, labels = tensors(1024, 2048, 32)
    gradients = 4 * (hidden.numel() + weight.numel()) if backward else 0

    def run(logprobs_of: Callable[..., tuple[Tensor, Tensor]]) -> Any:
        with torch.set_grad_enabled(backward):
            value, more = logprobs_of(hidden, weight, labels)
            loss = value.sum() + more.sum() if entropy else value.sum()
            return torch.autograd.grad(loss, (hidden, weight)) if backward else value

    options = {"entropy": entropy, "entropy_gradient": entropy}
    own = peak_bytes(lambda: run(lambda *inputs: fused(*inputs, **options))) - gradients
    theirs = peak_bytes(lambda: run(plain)) - gradients
    assert theirs >= 2 * 4 * 1024 * 2048
    assert own <= theirs / 8
    assert own <= 4 * (3 * (1 << 15) + 16 * 1024 + 4 * 256 * 32)
