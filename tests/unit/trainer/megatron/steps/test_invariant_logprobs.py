"""Log-probs whose bits do not depend on the other tokens: those that an engine computes with `run.bitwise`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rlscale.platform import batch_invariant, sglang_bitwise
from tests.unit.trainer.megatron.steps.plain_logprobs import assert_close, fused

TEMPERATURE, WORDS = 0.7, 9000
"""Words of three blocks, the last of them not full."""


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of more tokens than a tile of rows has, a weight, and labels in every block."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(70, 32).to(dtype), (0.5 * torch.randn(WORDS, 32)).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.arange(70) * (WORDS // 70)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_the_engines_bit_for_bit_alone_and_among_others(dtype: torch.dtype, entropy: bool) -> None:
    hidden, weight, labels = inputs(dtype)
    options = {"temperature": TEMPERATURE, "entropy": entropy, "invariant": True}
    found, _ = fused(hidden, weight, labels, **options)
    with torch.no_grad():
        logits = batch_invariant.head(hidden, weight).float()
        engines = batch_invariant.logprobs(logits.div_(torch.full((70, 1), TEMPERATURE)), labels)
    assert torch.equal(found, engines)
    for some in (slice(0, 1), slice(13, 16), slice(5, 70)):
        alone, _ = fused(hidden[some], weight, labels[some], **options)
        assert torch.equal(alone, engines[some])


def test_among_the_words_that_a_token_was_drawn_from_they_are_the_engines() -> None:
    """Of some tokens words in all blocks, of some one word, of the others all of them."""
    hidden, weight, labels = inputs(torch.float32)
    support, named = torch.full((70, 30), -1), []
    for row, label in enumerate(labels.tolist()):
        others = [*range(7 * row, 9000, 310)] if row % 3 == 0 else []
        words = [label, *others][:30]
        named.append(None if row % 3 == 2 else words)
        if named[-1]:
            support[row, : len(words)] = torch.tensor(words)
    found, _ = fused(hidden, weight, labels, temperature=TEMPERATURE, support=support, invariant=True)
    with torch.no_grad():
        logits = batch_invariant.head(hidden, weight).div_(torch.full((70, 1), TEMPERATURE))
        output = SimpleNamespace(next_token_sampling_mask_idx=named, next_token_sampling_logprobs=[0.5] * 70)
        engines = batch_invariant.logprobs(logits, labels)
        sglang_bitwise._among_named(output, logits, labels)
    told = [
        one if words else whole
        for one, words, whole in zip(output.next_token_sampling_logprobs, named, engines, strict=True)
    ]
    assert found.tolist() == [float(one) for one in told]
    assert found[1] == 0.0  # a word by itself


@pytest.mark.parametrize("entropy", [False, True])
def test_values_and_gradients_are_as_without(entropy: bool) -> None:
    hidden, weight, labels = inputs(torch.float32)
    factors, sides = torch.randn(2, len(labels)), []
    for invariant in (True, False):
        options = {"temperature": TEMPERATURE, "entropy": entropy, "entropy_gradient": entropy, "invariant": invariant}
        logprobs, entropies = fused(hidden, weight, labels, **options)
        loss = factors[0] @ logprobs + (factors[1] @ entropies if entropy else 0)
        sides.append([logprobs, *([entropies] if entropy else []), *torch.autograd.grad(loss, (hidden, weight))])
    for mine, theirs in zip(*sides, strict=True):
        assert_close(mine, theirs)
