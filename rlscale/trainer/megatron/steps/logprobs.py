"""Log-probs and entropies from hidden states, fused with the output projection that is split over the vocabulary.

With temperature t, logits z = W h over the whole vocabulary (the padding of the last rank left out):

    lp_y = z_y / t - logsumexp(z / t)        H = logsumexp(z / t) - sum_v p_v z_v / t

All logits never exist at once: a tile of them (a block of tokens x a block of words) is made, reduced and overwritten
by the next one, and made again in the backward pass. A tile takes many tokens and then as many words as fit: with all
words of a few tokens, the gradient of the weight, the largest tensor here, would be read and written for those few.
Where a token was drawn from some words only (top-p, top-k), the sums run over those: the other logits of a tile are
replaced by a number so small that its probability is 0, which makes values and gradients those of the words left.

Tiles are products in the model's own type; every reduction is float32. Ranks tell one another four numbers per token.

The gradients, with c = -(dL/dlp) / t for each token and p the probabilities, are those of torch's log_softmax:

    dL/dh = c (p - 1_y) W        dL/dW = (p - 1_y)^T (c h)

Several labels of one token share its tiles: their gradients add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlscale.platform import batch_invariant
from rlscale.platform.invariant_products import product

TILES = {"cpu": (2048, 1 << 22), "cuda": (4096, 1 << 24)}
"""Tokens of a tile at the most, and logits of a tile (16 and 64 MiB in float32), by kind of device.

There is one such buffer, two where entropies are asked for, and as much again in 16 bits for a model in 16 bits.
"""
_ENLARGED = 2**10
"""Factor of probabilities in float16: those of most words of a large vocabulary are under its least normal number."""


def vocab_parallel_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    vocabulary: int,
    group: dist.ProcessGroup,
    entropy: bool,
    entropy_gradient: bool = False,
    support: Tensor | None = None,
    invariant: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-prob of each label, and the entropy if asked for.

    Shapes: hidden [T, H], the same on every tensor-parallel rank; weight [V / ranks, H], this rank's part; labels int64
    [T], or [T, L] for several words at each position, -1 for none, whose log-prob is 0 -> float32 as the labels,
    float32 [T] or None (float64 from float64). `vocabulary`: entries without padding. The entropy
    has a gradient only with `entropy_gradient`. T may be 0. `support` [T, K] (integers) are the words that each label
    was drawn from, itself among them as every label is, filled up with -1; a row of -1 stands for all words.
    `invariant`: with the same bits whatever the other tokens are, on the CPU.

    The gradient of `hidden` is this rank's share: the sum over the ranks is the whole. The gradient of a parameter of
    Megatron's DDP is added to its `main_grad`.
    """
    first = group.rank() * weight.shape[0]
    part = _Part(temperature, first, max(min(vocabulary - first, weight.shape[0]), 0), group, invariant)
    logprobs, entropies = _LogProbs.apply(hidden, weight, labels, support, part, entropy)
    if entropies is not None and not entropy_gradient:
        entropies = entropies.detach()
    return logprobs, entropies


@dataclass(frozen=True)
class _Part:
    """What a rank has of the vocabulary."""

    temperature: float
    first: int
    """Word of its first row."""
    words: int
    """Rows that are words; the others are padding."""
    group: Any
    invariant: bool = False
    """Whether logits and sums are made in an order that does not depend on the other tokens."""


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, support: Tensor | None, part: _Part, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        tiles = _Tiles(hidden, weight, labels, support, part)
        statistics = hidden.new_empty((2 + tiles.each + entropy, len(labels)), dtype=tiles.dtype)
        for tokens in tiles.token_blocks():
            _add_up(tiles, tokens, statistics[:, tokens])
        largest, total, *words = _over_ranks(statistics, tiles.each, part.group)
        log_total = total.log()
        entropies = log_total - words.pop() / total if entropy else None
        ctx.save_for_backward(hidden, weight, labels, support, log_total + largest, entropies)
        ctx.part = part
        ctx.set_materialize_grads(False)
        if labels.dim() == 1:
            return words[0] - largest - log_total, entropies
        return torch.where(labels < 0, 0.0, (torch.stack(words) - largest - log_total).T), entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_logprobs is None and grad_entropies is None:
            return None, None, None, None, None, None
        hidden, weight, labels, support, normaliser, entropies = ctx.saved_tensors
        tiles = _Tiles(hidden, weight, labels, support, ctx.part)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = _WeightGradient(weight, tiles.dtype) if ctx.needs_input_grad[1] else None
        each = None
        if grad_logprobs is not None and labels.dim() == 2:
            each = torch.where(labels < 0, 0.0, grad_logprobs) / -ctx.part.temperature
            grad_logprobs = -ctx.part.temperature * each.sum(1)
        for tokens in tiles.token_blocks():
            upstream = _Upstream(
                normaliser[tokens],
                None if grad_logprobs is None else -grad_logprobs[tokens] / ctx.part.temperature,
                None if each is None else each[tokens],
                None if grad_entropies is None else -grad_entropies[tokens] / ctx.part.temperature,
                None if entropies is None else entropies[tokens],
            )
            grad_hidden[tokens] = _of_block(tiles, tokens, upstream, grad_weight)
        return grad_hidden, None if grad_weight is None else grad_weight.for_autograd(), None, None, None, None


class _Tiles:
    """The logits of a rank, tile by tile. A tile is overwritten by the next one with the same buffer."""

    def __init__(self, hidden: Tensor, weight: Tensor, labels: Tensor, support: Tensor | None, part: _Part) -> None:
        self.hidden, self.weight, self.temperature = hidden, weight, part.temperature
        self.dtype = torch.float64 if hidden.dtype is torch.float64 else torch.float32
        self._labels, self._words = (labels if labels.dim() == 2 else labels[:, None]) - part.first, part.words
        self._support = None if support is None else support.long() - part.first
        self._unlimited = None if support is None else (support < 0).all(1)
        most, values = TILES[hidden.device.type]
        if part.invariant:
            most = min(most, values // batch_invariant.WORDS)
        blocks = max(-(-len(labels) // most), 1)
        self._rows = max(-(-len(labels) // blocks), 1)
        self._invariant = part.invariant
        columns = batch_invariant.WORDS if self._invariant else values // self._rows
        self._columns = max(min(columns, part.words), 1)
        self._buffers: dict[str, Tensor] = {}

    @property
    def each(self) -> int:
        """Labels of each token."""
        return self._labels.shape[1]

    def token_blocks(self) -> Iterator[slice]:
        """Blocks of tokens of about the same size."""
        for start in range(0, len(self._labels), self._rows):
            yield slice(start, min(start + self._rows, len(self._labels)))

    def word_blocks(self) -> Iterator[slice]:
        """Blocks of rows of the weight, padding left out."""
        for start in range(0, self._words, self._columns):
            yield slice(start, min(start + self._columns, self._words))

    def logits(self, tokens: slice, words: slice, minus: Tensor | None = None) -> Tensor:
        """Logits / temperature - minus: [tokens, words]; minus [tokens]."""
        hidden, weight = self.hidden[tokens], self.weight[words]
        tile = self.buffer("logits", hidden.shape[0], weight.shape[0])
        if self._invariant:
            tile.copy_(product(hidden, weight)).div_(self.temperature)
            if minus is not None:
                tile.sub_(minus[:, None])
        elif hidden.dtype is tile.dtype:
            start, beta = (tile, 0) if minus is None else (-minus[:, None], 1)
            torch.addmm(start, hidden, weight.T, beta=beta, alpha=1 / self.temperature, out=tile)
        else:
            tile.copy_(hidden @ weight.T).div_(self.temperature)
            if minus is not None:
                tile.sub_(minus[:, None])
        return (
            tile if self._support is None else tile.masked_fill_(self._left_out(tokens, words), batch_invariant.NOTHING)
        )

    def _left_out(self, tokens: slice, words: slice) -> Tensor:
        """Which words of a tile the label cannot have been, bool [tokens, words]."""
        assert self._support is not None
        assert self._unlimited is not None
        columns = words.stop - words.start
        index = self._support[tokens] - words.start
        index = torch.where((index >= 0) & (index < columns), index, columns)  # one column more takes the others
        left_out = torch.ones(len(index), columns + 1, dtype=torch.bool, device=index.device)
        left_out.scatter_(1, index, False)
        return left_out[:, :columns] & ~self._unlimited[tokens, None]

    def labels(self, tokens: slice, words: slice) -> tuple[Tensor, Tensor]:
        """Where each label is in a tile (0 if elsewhere), and whether it is there: [tokens, labels] each."""
        index = self._labels[tokens] - words.start
        here = (index >= 0) & (index < words.stop - words.start)
        return torch.where(here, index, 0), here

    def buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """Memory of the size of a tile, the same for every tile."""
        if name not in self._buffers:
            self._buffers[name] = self.hidden.new_empty(self._rows * self._columns, dtype=self.dtype)
        return self._buffers[name][: rows * columns].view(rows, columns)


def _add_up(tiles: _Tiles, tokens: slice, statistics: Tensor) -> None:
    """Fill in what a rank knows of a block of tokens, [2 + labels (+ 1), tokens], with z for logits / temperature:

    the largest z = m; sum exp(z - m); each label's z, 0 if it is elsewhere; if asked for sum exp(z - m) (z - m).
    """
    statistics.zero_()
    statistics[0] = batch_invariant.NOTHING
    largest, total = statistics[:2]
    label, weighted = statistics[2 : 2 + tiles.each], statistics[2 + tiles.each :]
    for words in tiles.word_blocks():
        z = tiles.logits(tokens, words)
        index, here = tiles.labels(tokens, words)
        label += torch.where(here, z.gather(1, index), 0.0).T
        change = batch_invariant.shift(largest, z)
        if len(weighted):
            weighted[0].addcmul_(change, total).mul_(change.exp())
            p = torch.exp(z, out=tiles.buffer("probabilities", *z.shape))
            weighted[0] += z.mul_(p).sum(1)
        else:
            p = z.exp_()
        batch_invariant.add_block(total, p, change)


def _over_ranks(statistics: Tensor, each: int, group: Any) -> Tensor:
    """The statistics of the whole vocabulary from those of each rank's part, the same bits on every rank."""
    if group.size() == 1 or statistics.shape[1] == 0:
        return statistics
    flat = statistics.new_empty(group.size() * statistics.numel())
    dist.all_gather_into_tensor(flat, statistics.view(-1), group=group)
    parts = flat.view(group.size(), *statistics.shape)
    largest, total = parts[:, 0], parts[:, 1]
    together = largest.amax(0)
    change = largest - together
    shrunk = change.exp()
    sums = [together, (total * shrunk).sum(0), *parts[:, 2 : 2 + each].sum(0)]
    if parts.shape[1] > 2 + each:
        sums.append(((parts[:, -1] + change * total) * shrunk).sum(0))
    return torch.stack(sums)


@dataclass
class _Upstream:
    """What the gradients of a block of tokens are made from, [tokens] each."""

    normaliser: Tensor
    logprobs: Tensor | None
    """-(dL/dlp) / temperature, the sum over the labels of each token."""
    each: Tensor | None
    """The same for each label, [tokens, labels], where tokens have several."""
    entropies: Tensor | None
    """-(dL/dH) / temperature."""
    values: Tensor | None
    """The entropies themselves."""

    def tile(self, tiles: _Tiles, tokens: slice, words: slice) -> Tensor:
        """The tile of dL/d(logits). Where entropies have no gradient, and tokens one label each, without the factor
        `logprobs` of each token.
        """
        logp = tiles.logits(tokens, words, minus=self.normaliser)
        factor: Tensor | float = 1.0
        if self.entropies is None and self.each is None:
            tile = logp.exp_()
        elif self.entropies is None:
            assert self.logprobs is not None  # of which `each` are the parts
            tile = logp.exp_().mul_(self.logprobs[:, None])
        else:
            # dH/dz_v = -p_v (log p_v + H) / t.
            assert self.values is not None  # computed where they have a gradient
            factor = 0.0 if self.logprobs is None else self.logprobs[:, None]
            tile = torch.exp(logp, out=tiles.buffer("probabilities", *logp.shape))
            tile.mul_(logp.add_(self.values[:, None]).mul_(self.entropies[:, None]).add_(factor))
        if self.logprobs is not None:
            index, here = tiles.labels(tokens, words)
            if self.each is None:
                tile.scatter_(1, index, tile.gather(1, index) - here * factor)
            else:
                tile.scatter_add_(1, index, -(here * self.each))  # two labels may be the same word
        return tile


def _of_block(tiles: _Tiles, tokens: slice, upstream: _Upstream, grad_weight: _WeightGradient | None) -> Tensor:
    """The gradient of a block of hidden states, in the tiles' type; that of the weight is added to `grad_weight`."""
    hidden = tiles.hidden[tokens]
    outside = None
    if upstream.entropies is None and upstream.each is None and upstream.logprobs is not None:
        outside = upstream.logprobs[:, None]
    if outside is not None and hidden.dtype is torch.float16:
        outside, enlarged = outside / _ENLARGED, _ENLARGED
    else:
        enlarged = 1
    scaled = hidden if outside is None else (hidden * outside).to(hidden.dtype)
    gradient = torch.zeros(hidden.shape, dtype=tiles.dtype, device=hidden.device)
    for words in tiles.word_blocks():
        tile = upstream.tile(tiles, tokens, words)
        tile = (tile if enlarged == 1 else tile.mul_(enlarged)).to(hidden.dtype)
        _add_product(gradient, tile, tiles.weight[words])
        if grad_weight is not None:
            _add_product(grad_weight.sum[words], tile.T, scaled)
    return gradient if outside is None else gradient.mul_(outside)


def _add_product(to: Tensor, a: Tensor, b: Tensor) -> None:
    if to.dtype is a.dtype:
        to.addmm_(a, b)
    else:
        to.add_(a @ b)


class _WeightGradient:
    """Where a weight's gradient is summed: in the float32 `main_grad` of Megatron's DDP, else in a tensor of its own.

    DDP adds `grad` to `main_grad` after the backward pass, except where `grad_added_to_main_grad` says that it has been
    done: the way of Megatron's own fused gradient accumulation.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._weight = weight
        main = getattr(weight, "main_grad", None)
        self._in_main = main is not None and main.dtype is dtype and hasattr(weight, "grad_added_to_main_grad")
        self.sum: Tensor = main if self._in_main and main is not None else torch.zeros_like(weight, dtype=dtype)

    def for_autograd(self) -> Tensor | None:
        """What the backward pass returns for the weight."""
        if not self._in_main:
            return self.sum.to(self._weight.dtype)
        self._weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]  # DDP reads it
        # A weight that is the embedding too has a gradient from there, which DDP adds in any case. Of any other, DDP
        # wants to see some gradient, and never reads it.
        return None if getattr(self._weight, "zero_out_wgrad", False) else torch.empty_like(self._weight)
