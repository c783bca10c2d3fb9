"""Other ways to divide rows into micro-batches, for comparison: padding, first fit, Karmarkar-Karp alone.

Each returns `parts[rank][k]`, the rows of micro-batch k of a rank, filled up with empty ones to equal numbers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]
Parts = list[list[list[int]]]


def padded(tokens: Lengths, ranks: int, cap: int) -> Parts:
    """Rows in the order given, equally many per rank; a micro-batch takes rows while count x longest is in the cap."""
    parts: Parts = []
    for rows in np.array_split(np.arange(len(tokens)), ranks):
        bins: list[list[int]] = []
        longest = 0
        for row in rows.tolist():
            longest = max(longest, int(tokens[row]))
            if bins and (len(bins[-1]) + 1) * longest <= cap:
                bins[-1].append(row)
            else:
                bins.append([row])
                longest = int(tokens[row])
        parts.append(bins)
    return _equal_counts(parts)


def first_fit(tokens: Lengths, ranks: int, cap: int) -> Parts:
    """Every row to the first micro-batch that has room; micro-batches to the ranks in turn."""
    return _first_fit(np.arange(len(tokens)), tokens, ranks, cap)


def first_fit_decreasing(tokens: Lengths, ranks: int, cap: int) -> Parts:
    """First fit, longest row first."""
    return _first_fit(np.argsort(-tokens, kind="stable"), tokens, ranks, cap)


def karmarkar_karp(tokens: Lengths, ranks: int, cap: int) -> Parts:
    """Rows to ranks by Karmarkar-Karp in tokens, then on every rank the same into as many micro-batches as all need."""
    owned = _differencing(list(range(len(tokens))), tokens, ranks)
    count = max(1, max(-(-int(tokens[rows].sum()) // cap) for rows in owned))
    while True:
        parts = [_differencing(rows, tokens, count) for rows in owned]
        if all(tokens[rows].sum() <= cap or len(rows) == 1 for bins in parts for rows in bins):
            return parts
        count += 1


def _first_fit(order: Lengths, tokens: Lengths, ranks: int, cap: int) -> Parts:
    bins: list[list[int]] = []
    rooms = np.zeros(len(tokens), np.int64)
    shortest, start = int(tokens.min()), 0
    for row, length in zip(order.tolist(), tokens[order].tolist(), strict=True):
        while start < len(bins) and rooms[start] < shortest:
            start += 1
        fits = rooms[start : len(bins)] >= length
        place = start + int(fits.argmax()) if fits.any() else len(bins)
        if place == len(bins):
            bins.append([])
            rooms[place] = cap
        bins[place].append(row)
        rooms[place] -= length
    return _equal_counts([bins[rank::ranks] for rank in range(ranks)])


def _differencing(rows: Sequence[int], tokens: Lengths, ways: int) -> list[list[int]]:
    """The largest differencing method: the two divisions of largest spread are joined, most with least, repeatedly.

    A division is the list of its non-empty parts (tokens, rows), largest first.
    """
    heap = [(-int(tokens[row]), number, [(int(tokens[row]), [row])]) for number, row in enumerate(rows)]
    if ways == 1 or not heap:
        return [list(rows), *([[]] * (ways - 1))]
    heapq.heapify(heap)
    made = len(heap)
    while len(heap) > 1:
        most, other = heapq.heappop(heap)[2], heapq.heappop(heap)[2]
        meeting = len(most) + len(other) - ways
        if meeting > 0:
            joined = [
                (a[0] + b[0], a[1] + b[1]) for a, b in zip(most[-meeting:], reversed(other[-meeting:]), strict=True)
            ]
            joined += most[:-meeting] + other[:-meeting]
        else:
            joined = most + other
        joined.sort(key=lambda part: -part[0])
        spread = joined[0][0] - (joined[-1][0] if len(joined) == ways else 0)
        heapq.heappush(heap, (-spread, made, joined))
        made += 1
    parts = [part[1] for part in heap[0][2]]
    return parts + [[] for _ in range(ways - len(parts))]


def _equal_counts(parts: Parts) -> Parts:
    most = max(len(bins) for bins in parts)
    return [bins + [[]] * (most - len(bins)) for bins in parts]
