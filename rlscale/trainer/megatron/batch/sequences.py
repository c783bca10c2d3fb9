"""Where the tokens of a packed micro-batch stand: padding, context-parallel slices, positions, attention batches.

Segments lie one after another. With context parallelism each is padded to a multiple of 2 x ranks and cut zig-zag (rank
r holds chunks r and 2 x ranks - 1 - r, which balances causal attention). A last segment of padding fills up what
sequence parallelism divides. Everything here is index arithmetic in NumPy, done once per micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from numpy.typing import NDArray
from torch import Tensor

from rlscale.trainer.megatron.batch.routing import Routing
from rlscale.trainer.megatron.ranks.slicing import Slicing

Indices = NDArray[np.int64]


@dataclass
class AttentionBatch:
    """Segments of similar length that attend in one call.

    `queries`, `keys`: int64 [segments, longest], indices into this rank's tokens (queries) and into the tokens of all
    context-parallel ranks in their order (keys); where a segment is shorter, its first token repeated. `mask`: bool
    [segments, 1, queries, keys], or None where plain causality is enough (without context parallelism: what is added
    at the end is never seen by a real token). `whole`: the batch is all of the tokens, in order.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None = None
    whole: bool = False

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        """[tokens, heads, d] and one of `queries` and `keys` -> [segments, heads, longest, d]."""
        picked = x if self.whole else x.index_select(0, rows.view(-1))
        return picked.view(*rows.shape, *x.shape[1:]).transpose(1, 2)


@dataclass
class PackedSequences(PackedSeqParams):
    """Megatron's parameters of packed sequences, and what our own attention needs besides."""

    lengths: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """Tokens of each real segment, without padding."""
    positions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """[local tokens]: position of each of this rank's tokens in its segment."""
    segment_of: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """[local tokens]: number of its segment; the padding segment has the number after the last."""
    token_of: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """[local tokens]: which token of the concatenated unpadded segments it is; -1 for padding."""
    next_of: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """[local tokens]: which token it predicts; -1 where there is none."""
    second_of: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """[local tokens]: which token comes behind the one that it predicts; -1 where there is none."""
    batches: list[AttentionBatch] = field(default_factory=list)
    """How the segments attend."""
    restore: Tensor | None = None
    """[local tokens]: where each of this rank's tokens is in the concatenated outputs of `batches`; None: in order."""
    rotary: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Cosine and sine of this rank's tokens, [local tokens, 1, dimension / 2]; filled at a model's first layer.

    By the id of the model's TransformerConfig: policy and critic see the same micro-batches, and may differ in base,
    size of heads and type.
    """
    routing: Routing | None = None
    """What a pass does with the choice of experts; None: routers choose, and nothing is recorded."""

    @property
    def local_tokens(self) -> int:
        """Tokens of this rank, padding included."""
        return len(self.token_of)

    @property
    def segments(self) -> int:
        """Segments, the padding one included."""
        return len(self.lengths) + 1

    @cached_property
    def predicts(self) -> Tensor:
        """[local tokens] bool: whether the token predicts another one."""
        return torch.from_numpy(self.next_of >= 0)

    @cached_property
    def padding(self) -> Tensor:
        """[local tokens] bool, on the device: whether the token is padding."""
        return torch.from_numpy(self.token_of < 0).to(self.positions.device)


def pack(lengths: Sequence[int] | Indices, slicing: Slicing, device: torch.device, *, attend: bool) -> PackedSequences:
    """Lay out segments of these lengths; `attend` prepares the batches of our own attention.

    No segments at all is a dummy: it gets the smallest padding segment that the layout allows.
    """
    lengths = np.asarray(lengths, np.int64)
    padding = slicing.padding
    padded = _with_padding_segment(-(-lengths // padding.row) * padding.row, padding.total)
    starts = np.concatenate([[0], np.cumsum(padded)])
    total = int(starts[-1])
    segment = np.repeat(np.arange(len(padded)), padded)
    position = np.arange(total) - starts[segment]
    local = _own(position, padded[segment], slicing.context_size, slicing.context_rank)

    real = np.append(lengths, 0)[: len(padded)]
    first = np.concatenate([[0], np.cumsum(real)])[segment]
    token_of = np.where(position < real[segment], first + position, -1)
    next_of, second_of = (np.where(position + n < real[segment], first + position + n, -1) for n in (1, 2))

    cumulative = torch.from_numpy(starts.astype(np.int32)).to(device)
    longest = int(padded.max())
    sequences = PackedSequences(
        qkv_format="thd",
        cu_seqlens_q=cumulative,
        cu_seqlens_kv=cumulative,
        cu_seqlens_q_padded=cumulative,
        cu_seqlens_kv_padded=cumulative,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        lengths=lengths,
        positions=torch.from_numpy(position[local]).to(device),
        segment_of=torch.from_numpy(segment[local]).to(device),
        token_of=token_of[local],
        next_of=next_of[local],
        second_of=second_of[local],
    )
    if attend:
        sequences.batches, sequences.restore = _attention_batches(padded, starts, slicing, device)
    return sequences


def _with_padding_segment(padded: Indices, multiple: int) -> Indices:
    total = int(padded.sum())
    extra = -total % multiple
    if total == 0:
        extra = multiple
    return np.append(padded, extra) if extra else padded


def _own(position: Indices, length: Indices, size: int, rank: int) -> Indices:
    """Which of the global tokens a context-parallel rank holds, in order."""
    if size == 1:
        return np.arange(len(position))
    chunk = position // (length // (2 * size))
    return np.flatnonzero((chunk == rank) | (chunk == 2 * size - 1 - rank))


def _attention_batches(
    padded: Indices, starts: Indices, slicing: Slicing, device: torch.device
) -> tuple[list[AttentionBatch], Tensor | None]:
    """Batches of similar length, and where each local token is in their outputs.

    One call for segments whose lengths differ little costs less than one call each, and adding tokens at the end of
    the shorter ones costs less than a mask.
    """
    size = slicing.context_size
    if size == 1 and (padded == padded[0]).all():
        whole = torch.arange(int(starts[-1]), device=device).view(len(padded), -1)
        return [AttentionBatch(whole, whole, whole=True)], None
    gathered = _gathered_places(padded, size) if size > 1 else None
    batches: list[AttentionBatch] = []
    restore = np.zeros(int(starts[-1]) // size, np.int64)
    done = 0
    for members in _similar(padded):
        longest = int(padded[members[0]])
        real_keys = np.arange(longest) < padded[members][:, None]
        keys = np.where(real_keys, starts[members][:, None] + np.arange(longest), starts[members][:, None])
        width = longest // size
        real = np.arange(width) < (padded[members] // size)[:, None]
        local_start = (starts[members] // size)[:, None]
        queries = np.where(real, local_start + np.arange(width), local_start)
        restore[queries[real]] = done + np.flatnonzero(real.ravel())
        done += real.size
        mask = None
        if gathered is not None:
            keys = gathered[keys]
            mask = torch.from_numpy(_zigzag_mask(padded[members], width, longest, slicing)).to(device)
        batches.append(AttentionBatch(torch.from_numpy(queries).to(device), torch.from_numpy(keys).to(device), mask))
    return batches, torch.from_numpy(restore).to(device)


def _similar(padded: Indices) -> list[Indices]:
    """Segments, longest first, in groups whose lengths differ by at most 32 tokens or an eighth."""
    order = np.argsort(-padded, kind="stable")
    groups: list[Indices] = []
    begin = 0
    while begin < len(order):
        longest = padded[order[begin]]
        fits = longest - padded[order[begin:]] <= max(32, longest // 8)
        end = begin + (len(fits) if fits.all() else int(np.argmin(fits)))
        groups.append(order[begin:end])
        begin = end
    return groups


def _gathered_places(padded: Indices, size: int) -> Indices:
    """For each global token its place in the tokens of all context-parallel ranks, one rank after another."""
    length = np.repeat(padded, padded)
    position = np.arange(len(length)) - np.repeat(np.cumsum(padded) - padded, padded)
    places = np.zeros(len(length), np.int64)
    order = np.concatenate([_own(position, length, size, rank) for rank in range(size)])
    places[order] = np.arange(len(length))
    return places


def _zigzag_mask(padded: Indices, width: int, longest: int, slicing: Slicing) -> NDArray[np.bool_]:
    """[segments, 1, width, longest] bool: which keys a rank's queries see. Queries past the end see the first key."""
    size, rank = slicing.context_size, slicing.context_rank
    chunk = (padded // (2 * size))[:, None]
    slot = np.arange(width)[None, :]
    position = np.where(slot < chunk, rank * chunk + slot, (2 * size - 1 - rank) * chunk + slot - chunk)
    position = np.where(slot < 2 * chunk, position, 0)
    return (np.arange(longest)[None, None, :] <= position[:, :, None])[:, None]
