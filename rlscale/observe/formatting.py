"""How numbers, times and texts are written for people: in the terminal, in the last line, in the report."""

from __future__ import annotations

import math
from html import escape

from rlscale.config.shown import visible

UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))
"""Sizes of the units that large numbers are written in."""


def html_text(text: str) -> str:
    """The visible text as HTML: nothing in it becomes markup, and every page can hold it."""
    return escape(visible(text))


def duration(seconds: float) -> str:
    """0.42 s, 8.3 s, 1:05 min, 2:03:04 h. Empty for what is not finite."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def count(number: float) -> str:
    """912, 4.5k, 1.23M, 2.1B: three figures."""
    for size, unit in UNITS:
        if abs(number) >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}" if number % 1 else f"{number:.0f}"


def figure(value: float) -> str:
    """A metric in about four figures: 0.4217, 12.3, 1,234, 2.1e-06."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "none"
    size = abs(value)
    if size < 1e-3 or size >= 1e7:
        return f"{value:.1e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if size >= 10 else f"{value:.4f}".rstrip("0").rstrip(".")


def percent(share: float) -> str:
    """84.2 %, and 0.031 % where one digit would say nothing."""
    return f"{100 * share:.1f} %" if share == 0 or abs(share) >= 0.0005 else f"{100 * share:.2g} %"
