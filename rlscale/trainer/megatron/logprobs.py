"""Log-probs and entropies from logits that are split over the vocabulary, in float32 and in chunks of tokens.

With temperature t and logits z over the whole vocabulary (v entries, the padding of the last rank left out):

    lp_y = z_y / t - logsumexp(z / t)        H = logsumexp(z / t) - sum_v p_v z_v / t

Nothing of the size of the logits is kept in float32: each chunk of tokens is converted, reduced and dropped, and made
again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CHUNK_VALUES = 1 << 24
"""Logits converted to float32 at a time (64 MiB)."""


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, temperature: float, first: int, end: int, group: Any, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        parts = [_statistics(z, y, temperature, first, end, group, entropy) for z, y in _chunks(logits, labels)]
        logprobs, normaliser = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        entropies = torch.cat([part[2] for part in parts if part[2] is not None]) if entropy else None
        ctx.save_for_backward(logits, labels, normaliser, entropies)
        ctx.temperature, ctx.first, ctx.end = temperature, first, end
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, labels, normaliser, entropies = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        start = 0
        for z, y in _chunks(logits, labels):
            own = slice(start, start + len(y))
            start += len(y)
            logp = _scaled(z, ctx.temperature, ctx.first, ctx.end).sub_(normaliser[own, None])
            p = logp.exp()
            if grad_entropies is not None:
                # dH/dz_v = -p_v (log p_v + H) / t, and 0 x -inf is 0 for padding.
                weight = logp.add_(entropies[own, None]).masked_fill_(p == 0, 0.0).mul_(-grad_entropies[own, None])
            else:
                weight = torch.zeros((), device=z.device)
            if grad_logprobs is not None:
                weight = weight - grad_logprobs[own, None]
            p.mul_(weight)
            if grad_logprobs is not None:
                index, here = _place(y, ctx.first, z.shape[1])
                p.scatter_add_(1, index[:, None], torch.where(here, grad_logprobs[own], 0.0)[:, None])
            gradient[own] = p.div_(ctx.temperature)
        return gradient, None, None, None, None, None, None


def vocab_parallel_logprobs(
    logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    vocabulary: int,
    group: dist.ProcessGroup,
    entropy: bool,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-prob of each label, and the entropy if asked for.

    Shapes: logits [T, V / ranks] (this tensor-parallel rank's part, any float type), labels int64 [T] -> float32 [T],
    float32 [T] or None. `vocabulary`: entries without padding. The entropy has a gradient only with `entropy_gradient`.
    """
    first = group.rank() * logits.shape[1]
    end = max(min(vocabulary - first, logits.shape[1]), 0)
    logprobs, entropies = _LogProbs.apply(logits, labels, temperature, first, end, group, entropy)
    if entropies is not None and not entropy_gradient:
        entropies = entropies.detach()
    return logprobs, entropies


def _chunks(logits: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    size = max(CHUNK_VALUES // logits.shape[1], 1)
    return list(zip(logits.split(size), labels.split(size), strict=True))


def _scaled(z: Tensor, temperature: float, first: int, end: int) -> Tensor:
    """float32 logits / temperature (a copy), minus infinity at the vocabulary's padding."""
    z = z.float().div(temperature)
    if end < z.shape[1]:
        z[:, end:] = float("-inf")
    return z


def _place(labels: Tensor, first: int, size: int) -> tuple[Tensor, Tensor]:
    """Where each label is in this rank's part of the vocabulary (0 if elsewhere), and whether it is there."""
    index = labels - first
    here = (index >= 0) & (index < size)
    return torch.where(here, index, 0), here


def _statistics(
    z: Tensor, labels: Tensor, temperature: float, first: int, end: int, group: Any, entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probs, logsumexp and entropies of a chunk, [tokens] each."""
    z = _scaled(z, temperature, first, end)
    largest = z.amax(1)
    if group.size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    index, here = _place(labels, first, z.shape[1])
    label = torch.where(here, z.gather(1, index[:, None])[:, 0] - largest, 0.0)
    z.sub_(largest[:, None])
    p = z.exp()
    sums = [p.sum(1), label]
    if entropy:
        sums.append((p.mul_(z.masked_fill_(z == float("-inf"), 0.0))).sum(1))
    together = torch.stack(sums)
    if group.size() > 1:
        dist.all_reduce(together, group=group)
    total = together[0]
    normaliser = total.log()
    entropies = normaliser - together[2] / total if entropy else None
    return together[1] - normaliser, normaliser + largest, entropies
