"""What one data-parallel rank gets of a batch: its rows and the micro-batches they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Scope
from rlscale.data.batches.packing import Plan


@dataclass(frozen=True)
class RankShard:
    """The rows of one data-parallel rank.

    `steps[s][k]` are the rows (int64, numbers within `batch`) of micro-batch k of step s; an empty one is a dummy.
    `row_ids` are the numbers that the rows have in the whole batch, int64 [batch.rows], ascending.
    """

    batch: Batch
    steps: list[list[NDArray[np.int64]]]
    row_ids: NDArray[np.int64]


def split(batch: Batch, plan: Plan) -> list[RankShard]:
    """One shard per data-parallel rank; every row of the batch is in exactly one of them."""
    shards = []
    for steps in plan.parts:
        wanted = [rows for step in steps for rows in step]
        row_ids = np.sort(np.concatenate(wanted)) if wanted else np.zeros(0, np.int64)
        local = [[np.searchsorted(row_ids, rows) for rows in step] for step in steps]
        shards.append(RankShard(batch.select(row_ids), local, row_ids))
    return shards


def joined(shards: Sequence[RankShard]) -> Batch:
    """The whole batch that was split into these shards, with the columns that they have."""
    parts = [shard.batch for shard in shards]
    lengths = np.concatenate([part.lengths for part in parts])
    columns = {
        name: column if FIELDS[name].scope is Scope.batch else np.concatenate([part.column(name) for part in parts])
        for name, column in parts[0].columns.items()
    }
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Batch(offsets, columns).select(np.argsort(np.concatenate([shard.row_ids for shard in shards])))


def as_shard(batch: Batch) -> RankShard:
    """A batch of one micro-batch as the shard of a rank."""
    rows = np.arange(batch.rows)
    return RankShard(batch, [[rows]], rows)
