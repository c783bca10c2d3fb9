"""What a pass reads of a micro-batch besides its tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F

from rlscale.data.batches.fields import RELATIVE_TEMPERATURE
from rlscale.trainer.megatron.steps.passes import _logprobs

TRAINABLE = [1, 2, 5, 8]
OWN = [1.0, 0.5, 2.0, 0.7]
"""Relative temperatures of those."""


class Group:
    """A tensor-parallel group of one rank."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def test_tokens_that_were_drawn_at_their_own_temperatures_have_log_probs_and_gradients_at_those() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 6, requires_grad=True), torch.randn(20, 6, requires_grad=True)
    labels = torch.randint(0, 20, (9,))
    relative = torch.ones(len(labels))
    relative[TRAINABLE] = torch.tensor(OWN)
    microbatch: Any = SimpleNamespace(
        labels=labels, trainable=torch.tensor(TRAINABLE), fields={RELATIVE_TEMPERATURE.name: relative}
    )
    model: Any = SimpleNamespace(output_weight=weight, vocabulary=len(weight), batch_invariant=False)
    ranks: Any = SimpleNamespace(tensor_group=Group())
    found, entropy, _ = _logprobs(model, ranks, hidden, microbatch, 1.25, entropy=True)
    found.sum().backward()
    gradient, hidden.grad = hidden.grad, None
    by_word = (F.linear(hidden[TRAINABLE], weight) / (1.25 * relative[TRAINABLE, None])).log_softmax(-1)
    expected, entropies = torch.zeros(9), torch.zeros(9)
    expected[TRAINABLE] = by_word.gather(1, labels[TRAINABLE, None])[:, 0]
    entropies[TRAINABLE] = -(by_word.exp() * by_word).sum(-1)
    expected.sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy, entropies)
    torch.testing.assert_close(gradient, hidden.grad)
