"""One micro-batch of a rank: rows of its shard as packed tensors, and the way back from tokens to the rows' columns.

Columns of a batch are aligned to the token they belong to, the model's outputs to the position that predicts it: here,
and nowhere else, one is shifted to the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Field, Scope
from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.megatron.batch.sequences import PackedSequences, pack
from rlscale.trainer.megatron.ranks.slicing import Slicing


@dataclass(frozen=True)
class MtpTargets:
    """What the layer that predicts a token further is trained on: n positions, and the second token behind each."""

    trainable: Tensor
    """int64 [n], the positions whose second token is trainable, of the same row."""
    labels: Tensor
    """int64 [n], those tokens."""
    weights: Tensor
    """float32 [n], their weights in the step's loss."""


@dataclass
class MicroBatch:
    """Tensors of one forward-backward on this rank; T is the rank's tokens, padding included."""

    rows: NDArray[np.int64]
    """Rows of the shard, in packing order; none for a dummy."""
    tokens: Tensor
    """int64 [1, T], the model's input."""
    labels: Tensor
    """int64 [T], the token that each position predicts (0 where it predicts none)."""
    fields: dict[str, Tensor]
    """[T, ...] each, of the predicted token; `loss_mask` is False where there is none. A field `of_input` is of the
    position's own token, a value of a whole row stands at all of its tokens, one of the batch is 0-d."""
    trainable: Tensor
    """int64 [n], the positions whose predicted token is trainable: where `loss_mask` is True."""
    sequences: PackedSequences
    """Where the tokens stand."""
    routed_experts: NDArray[np.int16] | None = None
    """[T, layers, top_k], the experts that the engine sent each input token to, -1 where unknown; None: none known."""
    mtp: MtpTargets | None = None
    """What is predicted a token further; None in a shard that is not trained on."""
    computed: dict[str, Tensor] = field(default_factory=dict)
    """Columns that passes of this rank have computed, [T] each, aligned like `fields`."""

    def column(self, values: Tensor) -> NDArray[np.float32]:
        """Values [T] of the predicted tokens -> float32 of the rows' concatenated tokens; 0 where nothing is known.

        With context parallelism every rank fills in its own tokens; the sum over the ranks is the column.
        """
        column = np.zeros(int(self.sequences.lengths.sum()), np.float32)
        known = self.sequences.next_of >= 0
        column[self.sequences.next_of[known]] = values.detach().float().cpu().numpy()[known]
        return column


def build_microbatch(
    batch: Batch, rows: NDArray[np.int64], slicing: Slicing, device: torch.device, *, attend: bool
) -> MicroBatch:
    """Pack rows of a shard's batch. Every column that is for the ranks becomes a field, see `data/batches/fields.py`.

    ValueError for one of a type that torch does not have.
    """
    rows = np.asarray(rows, np.int64)
    picked = batch.select(rows)
    sequences = pack(picked.lengths, slicing, device, attend=attend)
    tokens = _pick(picked.column("tokens"), sequences.token_of, 0)
    labels = _pick(picked.column("tokens"), sequences.next_of, 0)
    names = [name for name in picked.columns if FIELDS[name].on_ranks and name not in _OWN]
    fields = {name: _carried(picked, FIELDS[name], sequences).to(device) for name in names}
    return MicroBatch(
        rows,
        torch.from_numpy(tokens.astype(np.int64))[None].to(device),
        torch.from_numpy(labels.astype(np.int64)).to(device),
        fields,
        torch.from_numpy(np.flatnonzero(_pick(picked.column("loss_mask"), sequences.next_of, False))).to(device),
        sequences,
        _pick(picked.column("routed_experts"), sequences.token_of, -1) if "routed_experts" in picked else None,
        _mtp_targets(picked, sequences, device) if "loss_weight" in picked else None,
    )


def _mtp_targets(batch: Batch, sequences: PackedSequences, device: torch.device) -> MtpTargets:
    second = sequences.second_of
    trainable = np.flatnonzero(_pick(batch.column("loss_mask"), second, False))
    labels, weights = (batch.column(name)[second[trainable]] for name in ("tokens", "loss_weight"))
    return MtpTargets(
        torch.from_numpy(trainable).to(device),
        torch.from_numpy(labels.astype(np.int64)).to(device),
        torch.from_numpy(weights.astype(np.float32)).to(device),
    )


_OWN = ("tokens", "routed_experts")
"""Columns that a micro-batch has in attributes of their own."""


def _carried(batch: Batch, spec: Field, sequences: PackedSequences) -> Tensor:
    """A column as the micro-batch carries it: [T, ...], or 0-d where the batch has one value."""
    values = batch.column(spec.name)
    if spec.scope in (Scope.segment, Scope.sample):
        values = np.repeat(values, batch.lengths, axis=0)
    if spec.scope is not Scope.batch:
        values = _pick(values, sequences.token_of if spec.of_input else sequences.next_of, spec.fill)
    try:
        return torch.from_numpy(values) if values.ndim else torch.tensor(values.item())
    except TypeError as error:
        raise ValueError(
            f"the column {spec.name!r} cannot be carried to the ranks: torch has no type for {values.dtype}; register "
            "its field with a type of numbers, or with on_ranks=False"
        ) from error


def build_steps(
    shard: RankShard, slicing: Slicing, device: torch.device, *, attend: bool, multiple: int = 1
) -> list[list[MicroBatch]]:
    """The micro-batches of every step of a shard; each step is filled up with dummies to a multiple of `multiple`."""
    steps = []
    for step in shard.steps:
        rows = [*step, *([np.zeros(0, np.int64)] * (-len(step) % multiple))]
        steps.append([build_microbatch(shard.batch, r, slicing, device, attend=attend) for r in rows])
    return steps


def _pick(values: NDArray, index: NDArray[np.int64], fill: float | int | bool) -> NDArray:
    """values[index], and `fill` where the index is -1."""
    if len(values) == 0:
        return np.full((len(index), *values.shape[1:]), fill, values.dtype)
    known = (index >= 0).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(known, values[np.maximum(index, 0)], np.asarray(fill, values.dtype))
