"""Evens out the work of ranks whose micro-batches are packed: rows move from the slowest rank to the fastest ones.

Needed where some rows are so long that the micro-batch they fill costs more than any other can: the rank that has one
must have less in its others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1.001
"""Slowest over mean rank that is good enough."""
_PARTNERS = 16
"""How many of the fastest ranks are asked before the slowest one counts as stuck."""
_CANDIDATES = 160
"""Rows of a rank that are looked at; of more, a sample of all lengths."""
_TARGETS = 8
"""Bins of the fastest rank that may take a row for nothing in return: those with the most work to their round's end."""

Bins = list[list[int]]


def sums(bins: Sequence[Sequence[int]], values: NDArray) -> NDArray:
    """Sum of `values` [rows] over the rows of each bin: [bins], in order of the rows, 0 for an empty bin."""
    sizes = [len(rows) for rows in bins]
    members = np.fromiter((row for rows in bins for row in rows), np.int64, sum(sizes))
    return np.bincount(np.repeat(np.arange(len(bins)), sizes), values[members], len(bins)).astype(values.dtype)


def balance(dealt: list[Bins], tokens: NDArray[np.int64], costs: NDArray[np.float64], cap: int) -> None:
    """Move or exchange rows between ranks, in place, until the slowest is near the mean or nothing helps.

    `dealt[rank][k]`: the rows of a bin; `tokens`, `costs` [rows]. No bin passes `cap` that did not before, no bin with
    rows loses all of them, and the work of the slowest rank never grows. Among equally good moves those are taken that
    do not lengthen round k, the work of the slowest micro-batch k.
    """
    loads = np.array([sums(bins, costs) for bins in dealt])
    for _ in range(16 * len(dealt)):
        totals = loads.sum(1)
        slowest = int(totals.argmax())
        if totals[slowest] <= TOLERANCE * totals.mean():
            return
        rounds = loads.max(0)
        give = _Side(dealt[slowest], tokens, costs, cap, rounds - loads[slowest])
        for fastest in np.argsort(totals, kind="stable")[:_PARTNERS].tolist():
            take = _Side(dealt[fastest], tokens, costs, cap, rounds - loads[fastest])
            gap, deficit = float(totals[slowest] - totals[fastest]), float(totals.mean() - totals[fastest])
            if _exchange(give, take, gap, deficit):
                for rank in (slowest, fastest):
                    loads[rank] = sums(dealt[rank], costs)
                break
        else:
            return


class _Side:
    """A rank's bins, and those of its rows that may leave, shortest first."""

    def __init__(
        self, bins: Bins, tokens: NDArray[np.int64], costs: NDArray[np.float64], cap: int, spare: NDArray[np.float64]
    ) -> None:
        self.bins = bins
        self.rooms = cap - sums(bins, tokens)
        self.spare = spare
        """Work that each bin can take before its round gets longer."""
        sizes = np.array([len(rows) for rows in bins], np.int64)
        members = np.array([row for rows in bins for row in rows], np.int64)
        number = np.repeat(np.arange(len(bins)), sizes)
        order = np.lexsort((members, tokens[members]))
        if len(order) > _CANDIDATES:
            order = order[np.linspace(0, len(order) - 1, _CANDIDATES).astype(np.int64)]
        self.rows, self.number = members[order], number[order]
        self.tokens, self.costs = tokens[self.rows], costs[self.rows]
        self.alone = sizes[self.number] == 1


def _exchange(give: _Side, take: _Side, gap: float, deficit: float) -> bool:
    """Make the best exchange that narrows `gap`, the difference in work between the two; False if there is none.

    A row of `give` goes to `take`, for a cheaper row or for none (the last columns). Best is a difference of half the
    gap, less what the exchange adds to a round. Where that does little, several rows go for none, until `take` has
    what it lacks to the mean, its `deficit`.
    """
    if not len(give.rows):
        return False
    targets = np.append(np.argsort(-take.spare, kind="stable")[: _TARGETS - 1], take.rooms.argmax())
    back_tokens = np.concatenate([take.tokens, np.zeros(len(targets), np.int64)])
    back_costs = np.concatenate([take.costs, np.zeros(len(targets))])
    number = np.concatenate([take.number, targets])
    gains = give.costs[:, None] - back_costs
    possible = (gains > 0) & (gains < gap) & (give.tokens[:, None] - back_tokens <= take.rooms[number])
    possible[give.alone, len(take.rows) :] = False
    badness = np.abs(gains - gap / 2) + np.maximum(gains - take.spare[number], 0)
    there, back = np.unravel_index(np.where(possible, badness, np.inf).argmin(), gains.shape)
    if not possible[there, back]:
        return False
    if gains[there, back] < min(gap / 4, deficit / 2) and _pour(give, take, min(gap / 2, deficit)):
        return True
    row, source, target = int(give.rows[there]), give.bins[give.number[there]], take.bins[number[back]]
    source.remove(row)
    target.append(row)
    if back < len(take.rows):
        other = int(take.rows[back])
        target.remove(other)
        source.append(other)
    return True


def _pour(give: _Side, take: _Side, most: float) -> bool:
    """Rows of `give`, longest first and together at most `most` work, go to `take`; False if there is room for none."""
    poured = False
    rooms, spare = take.rooms.copy(), take.spare.copy()
    for place in range(len(give.rows) - 1, -1, -1):
        length, cost, source = give.tokens[place], give.costs[place], give.bins[give.number[place]]
        fits = rooms >= length
        if cost > most or len(source) == 1 or not fits.any():
            continue
        target = int(np.where(fits, spare, -np.inf).argmax())
        source.remove(int(give.rows[place]))
        take.bins[target].append(int(give.rows[place]))
        rooms[target] -= length
        spare[target] -= cost
        most -= cost
        poured = True
    return poured
