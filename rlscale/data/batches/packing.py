"""Which rows go together into a micro-batch, and which data-parallel rank computes it.

Packs first and distributes second. The rows of a step are put into the fewest bins of at most `max_tokens` that every
rank can have equally many of, the bins are dealt to the ranks in rounds of about equal work, and rows are then moved
or exchanged between the slowest and the fastest rank. Work is counted in FLOPs, attention included; the cap is in
tokens, and only a single longer row passes it. What is computed does not depend on any of this (every loss is weighted
beforehand), only how long it takes.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlscale.data.batches.packing_balance import Bins, balance, sums

Rows = NDArray[np.int64]
Tokens = NDArray[np.int64]
Costs = NDArray[np.float64]

_UNEVEN = 1.03
"""Slowest over mean rank from which on one more micro-batch is tried, unless a single row is that slow."""
_WORTH = 0.98
"""It is kept if the slowest rank then has less than this share of its work."""
_GAIN = 0.99
"""Bins of unequal work are taken if ranks that wait for each other after each then need less than this share."""


@dataclass(frozen=True)
class CostModel:
    """Work of one row of n tokens: `linear * n + quadratic * n**2`, in any unit. Only the ratio of the two matters.

    The default is a dense model of 8B parameters (Qwen3-8B), whose attention costs as much as all its matrices at
    50,000 tokens; it is 10,000 for Qwen3-0.6B, 16,000 for Qwen3-30B-A3B and 110,000 for Llama-3-70B.
    """

    linear: float = 1.0
    """Work per token: everything but attention's scores and their use."""
    quadratic: float = 1 / 50_000
    """Work per squared token of a row: rows in one micro-batch do not see each other."""

    def __post_init__(self) -> None:
        if self.linear <= 0 or self.quadratic < 0:
            raise ValueError(f"linear={self.linear} must be positive and quadratic={self.quadratic} not negative")

    @classmethod
    def of_transformer(cls, matrix_parameters: int, layers: int, heads: int, head_dim: int) -> CostModel:
        """FLOPs of forward and backward with causal attention.

        `matrix_parameters`: those that a token is multiplied with, so the output projection but no input embedding,
        and of experts only those that a token visits. `layers`: those with full attention.
        """
        return cls(6.0 * matrix_parameters, 6.0 * layers * heads * head_dim)

    def of(self, lengths: ArrayLike) -> NDArray[np.float64]:
        """Work of rows of these lengths, float64 of the same shape."""
        tokens = np.asarray(lengths, np.float64)
        return self.linear * tokens + self.quadratic * tokens**2


@dataclass(frozen=True)
class Padding:
    """To multiples of what the trainer pads a micro-batch: every row of it, and then the whole."""

    row: int = 1
    total: int = 1

    @classmethod
    def of_layout(cls, context: int, shares: int, multiple: int = 1) -> Padding:
        """`context`: ranks that cut every row in two chunks each; `shares`: ranks that share the tokens of one of them;
        `multiple`: of what the tokens of a rank must be a multiple.

        `shares` is the size of sequence parallelism. It cuts the tokens without regard to rows, so only their total
        must divide.
        """
        row = 2 * context if context > 1 else 1
        return cls(row, math.lcm(row, context * shares * multiple))


@dataclass(frozen=True)
class Plan:
    """`parts[rank][step][k]`: the rows (int64, ascending) of the k-th micro-batch of a step on a data-parallel rank.

    Every rank has the same number (at least 1) of micro-batches in a step, most work first, so that micro-batch k costs
    about the same on all of them; an empty one is a dummy, which a rank computes only because the others do.
    `oversized` counts rows that pass the cap when padded, each alone in its micro-batch.
    """

    parts: list[list[list[Rows]]]
    oversized: int

    @property
    def data_parallel(self) -> int:
        """Number of data-parallel ranks."""
        return len(self.parts)

    @property
    def microbatches(self) -> list[int]:
        """Micro-batches of each step, per rank."""
        return [len(step) for step in self.parts[0]]


def plan(
    lengths: ArrayLike,
    step_of_row: ArrayLike,
    data_parallel: int,
    max_tokens: int,
    align: int = 1,
    *,
    total: int = 1,
    multiple: int = 1,
    cost: CostModel | None = None,
    lockstep: bool = False,
) -> Plan:
    """Divide rows into micro-batches of at most `max_tokens` tokens on `data_parallel` ranks.

    `lengths`, `step_of_row`: int [rows]; steps count from 0. A row takes its length rounded up to a multiple of
    `align`, and a micro-batch the sum of its rows rounded up to a multiple of `total` (see `Padding`). Every rank gets
    a multiple of `multiple` micro-batches in a step (virtual pipelines need that). `cost` weighs the work; None: that
    of a typical model. `lockstep`: ranks wait for each other after every micro-batch (expert parallelism) and not only
    at the end of the step. No row is dropped. Deterministic. Raises ValueError for a size that is not positive.
    """
    if min(data_parallel, max_tokens, align, total, multiple) < 1:
        sizes = f"data_parallel={data_parallel}, max_tokens={max_tokens}, align={align}, total={total}"
        raise ValueError(f"{sizes}, multiple={multiple} must be positive")
    room = max_tokens // total * total  # what fits below this last multiple still fits when it is padded
    cap = max(room, 1)  # where not even one multiple fits, every row stands alone
    tokens = -(-np.asarray(lengths, np.int64) // align) * align
    costs = (cost or CostModel()).of(tokens)
    step_of_row = np.asarray(step_of_row, np.int64)
    steps = int(step_of_row.max()) + 1 if step_of_row.size else 0
    parts: list[list[list[Rows]]] = [[] for _ in range(data_parallel)]
    for step in range(steps):
        rows = np.flatnonzero(step_of_row == step)
        dealt = _divide(tokens[rows], costs[rows], data_parallel, multiple, cap, lockstep)
        for rank, own in enumerate(dealt):
            parts[rank].append([rows[sorted(members)] for members in own])
    return Plan(parts, oversized=int((tokens > room).sum()))


def _divide(tokens: Tokens, costs: Costs, ranks: int, multiple: int, cap: int, lockstep: bool) -> list[Bins]:
    """The bins of every rank, most work first. One round of them more than needed if the cap keeps work from moving."""

    def attempt(spare: int) -> tuple[list[Bins], float]:
        bins = _pack(tokens, costs, ranks, multiple, cap, spare)
        dealt = _deal(bins, costs, ranks)
        if lockstep:
            return dealt, _rounds(bins, costs, ranks)
        balance(dealt, tokens, costs, cap)
        return dealt, max(float(sums(bins, costs).sum()) for bins in dealt)

    dealt, slowest = attempt(0)
    unavoidable = max(_UNEVEN * float(costs.sum()) / ranks, float(costs.max(initial=0.0)))
    if slowest > unavoidable:
        roomier, better = attempt(1)
        dealt = roomier if better < _WORTH * slowest else dealt
    return [[bins[number] for number in np.argsort(-sums(bins, costs), kind="stable")] for bins in dealt]


def _pack(tokens: Tokens, costs: Costs, ranks: int, multiple: int, cap: int, spare: int) -> Bins:
    """Bins of rows, none over `cap` but single rows: fewest multiples of `ranks * multiple`, and `spare` more."""
    order = np.argsort(-tokens, kind="stable")
    alone = [[int(row)] for row in order if tokens[row] > cap]
    rest = order[len(alone) :]

    def count(bins: int) -> int:
        return (max(-(-(len(alone) + bins) // (ranks * multiple)), 1) + spare) * ranks * multiple - len(alone)

    least = count(-(-int(tokens[rest].sum()) // cap))
    bins = _even(rest, tokens, costs, least, cap, least)
    if bins is None:
        tight = _tight(rest, tokens, cap)
        enough = count(len(tight))
        bins = _even(rest, tokens, costs, enough, cap, enough) if enough > least else None
        bins = bins or tight + [[] for _ in range(enough - len(tight))]
    now = _rounds(alone + bins, costs, ranks)
    if costs.sum() / ranks < _GAIN * now:
        graded = _even(rest, tokens, costs, len(bins), cap, ranks)
        if graded is not None and _rounds(alone + graded, costs, ranks) < _GAIN * now:
            bins = graded
    return alone + bins


def _even(order: Rows, tokens: Tokens, costs: Costs, count: int, cap: int, at_once: int) -> Bins | None:
    """`count` bins: longest row first, to the bin of least work that has room; None if none has.

    `at_once` bins are begun when no other has room. All: every bin gets about the same work. As many as there are
    ranks: long rows come together, so the ranks have about the same work in each round where a row of one bin costs
    more than all that fits into another. A bin without room is laid aside until rows are short enough for it again.
    """
    bins: Bins = [[] for _ in range(count)]
    rooms = [cap] * count
    begun = 0
    ready: list[tuple[float, int]] = []
    aside: list[tuple[int, float, int]] = []
    for row, length, cost in zip(order.tolist(), tokens[order].tolist(), costs[order].tolist(), strict=True):
        while aside and -aside[0][0] >= length:
            _, load, number = heapq.heappop(aside)
            heapq.heappush(ready, (load, number))
        while ready and rooms[ready[0][1]] < length:
            load, number = heapq.heappop(ready)
            heapq.heappush(aside, (-rooms[number], load, number))
        if not ready:
            if begun == count:
                return None
            new = range(begun, min(begun + at_once, count))
            ready = [(0.0, number) for number in new]
            begun = new.stop
        load, number = ready[0]
        heapq.heapreplace(ready, (load + cost, number))
        bins[number].append(row)
        rooms[number] -= length
    return bins


def _rounds(bins: Bins, costs: Costs, ranks: int) -> float:
    """Work of the slowest bin of every round, summed: a step's time if ranks wait after every micro-batch."""
    return float(np.sort(sums(bins, costs))[::-1][::ranks].sum())


def _tight(order: Rows, tokens: Tokens, cap: int) -> Bins:
    """Few bins: longest row first, to the fullest bin that has room. Fits where `_even` does not, balances less."""
    bins: Bins = []
    rooms: list[tuple[int, int]] = []
    shortest = int(tokens[order].min(initial=cap))
    for row, length in zip(order.tolist(), tokens[order].tolist(), strict=True):
        place = bisect_left(rooms, (length, -1))
        if place == len(rooms):
            bins.append([])
            room, number = cap, len(bins) - 1
        else:
            room, number = rooms.pop(place)
        bins[number].append(row)
        if room - length >= shortest:
            insort(rooms, (room - length, number))
    return bins


def _deal(bins: Bins, costs: Costs, ranks: int) -> list[Bins]:
    """Bins for every rank: in rounds of similar work (ranks may wait for each other), the most to the least loaded."""
    loads = sums(bins, costs).tolist()
    order = sorted(range(len(bins)), key=lambda number: (-loads[number], number))
    dealt: list[Bins] = [[] for _ in range(ranks)]
    totals = [0.0] * ranks
    for start in range(0, len(order), ranks):
        by_load = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for number, rank in zip(order[start : start + ranks], by_load, strict=True):
            dealt[rank].append(bins[number])
            totals[rank] += loads[number]
    return dealt
