"""Numbers of a run by name, in the order of iterations, and curves of them with as many points as a picture has."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """A curve of at most so many points as were asked for: of each bin the mean, and between which values it was."""

    x: list[float]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


@dataclass
class _Column:
    x: array[int] = field(default_factory=lambda: array("q"))
    y: array[float] = field(default_factory=lambda: array("d"))


class Columns:
    """Twelve to sixteen bytes for each number, however long a run is."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}

    @property
    def names(self) -> list[str]:
        """Every name that something was added to."""
        return sorted(self._columns)

    def add(self, iteration: int, values: Mapping[str, Any]) -> None:
        """The numbers among the values of an iteration; where it had some by a name, these hold.

        OverflowError for one that no float holds, or an iteration over 64 bits.
        """
        for name, value in values.items():
            if isinstance(value, (int, float)) and name not in ("iteration", "time"):
                column = self._columns.get(name)
                if column is None:
                    column = self._columns[name] = _Column()
                if column.x and column.x[-1] == iteration:
                    column.y[-1] = value
                else:
                    number = float(value)  # refused before either grows
                    column.x.append(iteration)
                    column.y.append(number)

    def last(self, name: str) -> tuple[int, float] | None:
        """The newest number and its iteration."""
        column = self._columns.get(name)
        return (column.x[-1], column.y[-1]) if column is not None and column.x else None

    def recent(self, name: str, count: int) -> NDArray[np.float64]:
        """The newest numbers, float64 [up to count]."""
        column = self._columns.get(name)
        return np.array(column.y[-count:] if column is not None else (), np.float64)

    def total(self, name: str) -> float:
        """The sum of all."""
        column = self._columns.get(name)
        return float(np.nansum(np.array(column.y))) if column is not None else 0.0

    def curve(self, name: str, points: int, first: float | None = None, last: float | None = None) -> Curve:
        """The curve between two iterations, ends included."""
        column = self._columns.get(name, _Column())
        x, y = np.array(column.x, np.int64), np.array(column.y, np.float64)
        if len(x) > 1 and np.any(x[1:] < x[:-1]):  # evaluations may be known late
            order = np.argsort(x, kind="stable")
            x, y = x[order], y[order]
        start = 0 if first is None else int(np.searchsorted(x, first))
        end = len(x) if last is None else int(np.searchsorted(x, last, side="right"))
        return _thinned(x[start:end], y[start:end], points)


def _thinned(x: NDArray[np.int64], y: NDArray[np.float64], points: int) -> Curve:
    if len(x) <= points:
        values = _plain(y)
        return Curve([float(one) for one in x], values, values, values)
    bins = np.linspace(0, len(x), points, endpoint=False).astype(np.int64)
    sizes = np.diff(np.append(bins, len(x)))
    mean, middle = np.add.reduceat(y, bins) / sizes, np.add.reduceat(x.astype(np.float64), bins) / sizes
    low, high = np.minimum.reduceat(y, bins), np.maximum.reduceat(y, bins)
    return Curve([round(float(one), 2) for one in middle], _plain(mean), _plain(low), _plain(high))


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [finite(value) for value in values.tolist()]


def finite(value: float) -> float | None:
    """The number with six digits; JSON has no word for those that are not finite."""
    return float(f"{value:.6g}") if isfinite(value) else None
