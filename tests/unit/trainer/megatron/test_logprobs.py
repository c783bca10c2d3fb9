"""Log-probs and entropies from logits: values and gradients against torch's own log_softmax."""

from __future__ import annotations

import pytest
import torch

from rlscale.trainer.megatron import logprobs
from rlscale.trainer.megatron.logprobs import vocab_parallel_logprobs


class One:
    """A tensor-parallel group of one rank."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def reference(
    logits: torch.Tensor, labels: torch.Tensor, temperature: float, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    logp = (logits[:, :vocabulary].float() / temperature).log_softmax(-1)
    return logp.gather(1, labels[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
@pytest.mark.parametrize("vocabulary", [20, 17])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_log_softmax(
    chunk: int, vocabulary: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_VALUES", chunk)
    torch.manual_seed(0)
    logits = (3 * torch.randn(9, 20)).requires_grad_()
    labels = torch.randint(0, vocabulary, (9,))
    weights = torch.randn(2, 9)
    got = vocab_parallel_logprobs(
        logits, labels, temperature=temperature, vocabulary=vocabulary, group=One(),  # type: ignore[arg-type]  # a group
        entropy=True, entropy_gradient=True,
    )  # fmt: skip
    expected = reference(logits, labels, temperature, vocabulary)
    assert got[1] is not None
    torch.testing.assert_close(got[0], expected[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(got[1], expected[1], atol=1e-6, rtol=1e-6)
    (mine,) = torch.autograd.grad((weights[0] * got[0] + weights[1] * got[1]).sum(), logits)
    (theirs,) = torch.autograd.grad((weights[0] * expected[0] + weights[1] * expected[1]).sum(), logits)
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
    assert (mine[:, vocabulary:] == 0).all()


def test_entropy_as_a_metric_has_no_gradient() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    value, entropy = vocab_parallel_logprobs(
        logits, torch.zeros(3, dtype=torch.long), temperature=1.0, vocabulary=5, group=One(), entropy=True,  # type: ignore[arg-type]  # a group
    )  # fmt: skip
    assert entropy is not None
    assert not entropy.requires_grad
    assert value.requires_grad


def test_sixteen_bit_logits_are_computed_in_float32() -> None:
    torch.manual_seed(0)
    logits = (10 * torch.randn(4, 64)).to(torch.bfloat16).requires_grad_()
    labels = torch.randint(0, 64, (4,))
    value, _ = vocab_parallel_logprobs(
        logits, labels, temperature=1.0, vocabulary=64, group=One(), entropy=False,  # type: ignore[arg-type]  # a group
    )  # fmt: skip
    assert value.dtype is torch.float32
    torch.testing.assert_close(value, reference(logits, labels, 1.0, 64)[0], atol=1e-5, rtol=1e-6)
    value.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype is torch.bfloat16
