"""Which rows go together into a micro-batch, and which data-parallel rank computes it.

Packs first and distributes second: the rows of a step are put into bins of at most `max_tokens`, their number a
multiple of the data-parallel ranks, then the bins are dealt out so that every rank gets equally many of about equal
size. What is computed does not depend on it (every loss is weighted beforehand), only how long it takes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """`parts[rank][step][k]`: the rows (int64, ascending) of the k-th micro-batch of a step on a data-parallel rank.

    Every rank has the same number (at least 1) of micro-batches in a step; an empty one is a dummy, which a rank
    computes only because the others do. `oversized` counts rows over the cap, each alone in its micro-batch.
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


def plan(lengths: ArrayLike, step_of_row: ArrayLike, data_parallel: int, max_tokens: int, align: int = 1) -> Plan:
    """Divide rows into micro-batches of at most `max_tokens` tokens on `data_parallel` ranks.

    `lengths`, `step_of_row`: int [rows]; steps count from 0. A row costs its length rounded up to a multiple of
    `align` (what context and sequence parallelism pad it to). No row is dropped. Deterministic.
    """
    if data_parallel < 1 or max_tokens < 1 or align < 1:
        raise ValueError(f"data_parallel={data_parallel}, max_tokens={max_tokens} and align={align} must be positive")
    costs = -(-np.asarray(lengths, np.int64) // align) * align
    step_of_row = np.asarray(step_of_row, np.int64)
    steps = int(step_of_row.max()) + 1 if step_of_row.size else 0
    parts: list[list[list[Rows]]] = [[] for _ in range(data_parallel)]
    for step in range(steps):
        rows = np.flatnonzero(step_of_row == step)
        bins = _pack(rows, costs, data_parallel, max_tokens)
        for rank, own in enumerate(_deal(bins, costs, data_parallel)):
            parts[rank].append(own)
    return Plan(parts, oversized=int((costs > max_tokens).sum()))


def _pack(rows: Rows, costs: NDArray[np.int64], multiple: int, cap: int) -> list[list[int]]:
    """Bins of rows, none over `cap` but single rows; the smallest number that works and is a multiple of `multiple`."""
    order = rows[np.argsort(-costs[rows], kind="stable")]
    alone = [[int(row)] for row in order if costs[row] > cap]
    rest = [int(row) for row in order if costs[row] <= cap]
    least = len(alone) + -(-int(costs[rest].sum()) // cap)
    count = max(-(-least // multiple), 1) * multiple
    while True:
        bins = _even(rest, costs, count - len(alone), cap) or _tight(rest, costs, count - len(alone), cap)
        if bins is not None:
            return alone + bins
        count += multiple


def _even(order: list[int], costs: NDArray[np.int64], count: int, cap: int) -> list[list[int]] | None:
    """`count` bins of about equal size (longest row first into the lightest bin), or None if the cap stops it."""
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for row in order:
        if not heap or heap[0][0] + costs[row] > cap:
            return None
        load, number = heap[0]
        bins[number].append(row)
        heapq.heapreplace(heap, (load + int(costs[row]), number))
    return bins


def _tight(order: list[int], costs: NDArray[np.int64], count: int, cap: int) -> list[list[int]] | None:
    """`count` bins filled one by one (first fit, longest first): succeeds more often than `_even`, balances less."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = np.zeros(count, np.int64)
    for row in order:
        fits = np.flatnonzero(loads + costs[row] <= cap)
        if not fits.size:
            return None
        bins[fits[0]].append(row)
        loads[fits[0]] += costs[row]
    return bins


def _deal(bins: list[list[int]], costs: NDArray[np.int64], ranks: int) -> list[list[Rows]]:
    """Bins for every rank: in rounds of similar size (ranks wait for each other), the largest to the least loaded."""
    loads = [int(costs[rows].sum()) if rows else 0 for rows in bins]
    order = sorted(range(len(bins)), key=lambda number: (-loads[number], number))
    dealt: list[list[Rows]] = [[] for _ in range(ranks)]
    totals = [0] * ranks
    for start in range(0, len(order), ranks):
        by_load = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for number, rank in zip(order[start : start + ranks], by_load, strict=True):
            dealt[rank].append(np.sort(np.array(bins[number], np.int64)))
            totals[rank] += loads[number]
    return dealt
