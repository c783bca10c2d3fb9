"""Where an axis has its marks, and what stands beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlscale.observe.formatting import UNITS

_MOST_DIGITS = 4
"""Digits after the point before powers of ten are written instead."""


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - (pad if low else 0.0), high + pad
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def labels(ticks: Sequence[float], form: str, *, log: bool = False) -> list[str]:
    """A text for each tick: as few digits as tell all of them apart. `form` as in `charts.Chart`."""
    if log:
        return [f"1e{round(math.log10(tick))}" for tick in ticks]
    largest = max((abs(tick) for tick in ticks), default=0.0)
    factor, unit = 1.0, ""
    if form == "percent":
        factor, unit = 100.0, "%"
    elif form == "count" or largest >= 10_000:
        size, unit = next(((size, unit) for size, unit in UNITS if largest >= size), (1.0, ""))
        factor = 1.0 / size
    scaled = [tick * factor for tick in ticks]
    for digits in range(_MOST_DIGITS + 1):
        texts = [_without_minus_zero(f"{value:.{digits}f}") for value in scaled]
        # Told apart is not enough: ticks are even, so that the texts must be, too (not 0, 0.2, 0.5, 0.8, 1).
        if all(abs(float(text) - value) <= 1e-6 * largest * factor for text, value in zip(texts, scaled, strict=True)):
            return [text + unit for text in texts]
    for digits in range(16):
        texts = [f"{value:.{digits}e}" if abs(value) > 1e-9 * largest * factor else "0" for value in scaled]
        if len(set(texts)) == len(texts):
            break
    return [text + unit for text in texts]


def _without_minus_zero(text: str) -> str:
    return text.lstrip("-") if float(text) == 0 else text
