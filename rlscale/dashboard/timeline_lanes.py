"""The timeline of a run of any length: a few numbers for each span, and windows of it as lanes."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.observe.time_charts import lane_of, lane_order

MOST_SPANS = 1500
"""Spans of a window that are drawn one by one; of more, the share of each stretch of time that they fill."""
STRETCHES = 300


class Spans:
    """Everything that a timeline told so far."""

    def __init__(self) -> None:
        self._start, self._end = array("d"), array("d")
        self._kind = array("I")
        self._kinds: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._start)

    def add(self, record: Mapping[str, Any]) -> None:
        """A line of timeline.jsonl; one that is none is passed over. OverflowError for times that are no float."""
        start, end = record.get("start"), record.get("end")
        if not (
            isinstance(start, (int, float)) and isinstance(end, (int, float)) and isfinite(start) and isfinite(end)
        ):
            return
        if "name" in record and "lane" in record:
            kind = (str(record["lane"]), str(record["name"]))
            self._start.append(start)
            self._end.append(end)
            self._kind.append(self._kinds.setdefault(kind, len(self._kinds)))

    @property
    def kinds(self) -> int:
        """How many there are, by lane and name."""
        return len(self._kinds)

    @property
    def whole(self) -> tuple[float, float] | None:
        """From when to when there are any, in seconds since 1970."""
        if not len(self):
            return None
        return float(np.min(np.array(self._start))), float(np.max(np.array(self._end)))

    def end_of_last(self, count: int) -> tuple[float, float] | None:
        """The time that the newest so many spans take."""
        if not len(self):
            return None
        return min(self._start[-count:]), max(self._end[-count:])

    def lanes(self, start: float, end: float) -> list[dict[str, Any]]:
        """Rows from top to bottom: `lane`, and either `spans` (name, start, end) or `shares` of stretches by name.

        Seconds from `start` on; stretches are of equal length.
        """
        starts, ends, kinds = np.array(self._start), np.array(self._end), np.array(self._kind)
        inside = (ends > start) & (starts < end)
        starts, ends, kinds = starts[inside], ends[inside], kinds[inside]
        single = len(starts) <= MOST_SPANS
        rows: dict[str, dict[str, Any]] = {}
        for (lane, name), kind in self._kinds.items():
            own = kinds == kind
            if not own.any():
                continue
            label = lane_of(lane, name)
            row = rows.setdefault(label, {"lane": label, "spans" if single else "shares": [] if single else {}})
            left, right = np.clip(starts[own], start, end) - start, np.clip(ends[own], start, end) - start
            if single:
                row["spans"] += [[name, round(a, 4), round(b, 4)] for a, b in zip(left, right, strict=True)]
            else:
                row["shares"][name] = _shares(left, right, end - start)
        return sorted(rows.values(), key=lambda row: lane_order(row["lane"]))


def _shares(left: NDArray[np.float64], right: NDArray[np.float64], length: float) -> list[float]:
    """Of each stretch of the window the share that spans fill, at most 1."""
    edges = np.linspace(0.0, length, STRETCHES + 1)
    # Seconds of spans before each edge, by when they began and ended: what lies between two edges is the difference.
    order_left, order_right = np.sort(left), np.sort(right)
    before = _before(order_left, edges) - _before(order_right, edges)
    filled = np.diff(before) / (length / STRETCHES)
    return [round(float(share), 3) for share in np.clip(filled, 0.0, 1.0)]


def _before(times: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each edge the sum of (edge - time) over the times before it."""
    sums = np.concatenate([[0.0], np.cumsum(times)])
    count = np.searchsorted(times, edges)
    result: NDArray[np.float64] = count * edges - sums[count]
    return result
