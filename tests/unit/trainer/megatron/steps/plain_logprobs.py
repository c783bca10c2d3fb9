"""Small inputs for log-probs from hidden states, and the same computed from all logits at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlscale.trainer.megatron.steps import logprobs
from rlscale.trainer.megatron.steps.logprobs import vocab_parallel_logprobs

TILINGS = [(1, 1), (4, 12), (2048, 1 << 22)]
"""Tokens and values of a tile: single logits; 9 tokens in 3 blocks, 20 words in 5 of them; one tile."""


class Group:
    """A tensor-parallel group as one of its ranks sees it."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self._rank, self._size = rank, size

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank


def fused(hidden: Tensor, weight: Tensor, labels: Tensor, *, group: Group | None = None, **options: Any) -> Any:
    given = {"temperature": 1.0, "vocabulary": len(weight), "entropy": False, **options}
    return vocab_parallel_logprobs(hidden, weight, labels, group=group or Group(), **given)


def plain(
    hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float = 1.0, vocabulary: int | None = None
) -> tuple[Tensor, Tensor]:
    """All logits at once."""
    logp = (F.linear(hidden, weight[:vocabulary]) / temperature).log_softmax(-1)
    return logp.gather(1, labels[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def tensors(
    tokens: int = 9, words: int = 20, size: int = 6, dtype: torch.dtype = torch.float32, used: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and labels; logits of about three."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, size).to(dtype).requires_grad_()
    weight = (3 / size**0.5 * torch.randn(words, size)).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, used or words, (tokens,))


def tile(monkeypatch: pytest.MonkeyPatch, tokens: int, values: int) -> None:
    monkeypatch.setattr(logprobs, "TILES", {"cpu": (tokens, values)})


def assert_close(got: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    assert (got.double() - expected.double()).abs().max() <= bound * expected.abs().max().clamp(min=1)


def supports(labels: Tensor, words: int, width: int) -> Tensor:
    """Words that the labels were drawn from, themselves among them: one word, all of `width`, and all words."""
    torch.manual_seed(5)
    rows = [torch.randperm(words)[:width] for _ in labels]
    found = torch.stack([torch.cat([y[None], row[row != y]])[:width] for y, row in zip(labels, rows, strict=True)])
    found = torch.where(torch.arange(width) < torch.randint(1, width + 1, (len(labels), 1)), found, -1)
    found[0, 1:], found[1] = -1, -1
    return found[:, torch.randperm(width)].int()
