"""What became of every prompt and token, and how stale the tokens were, as bars with their legends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlscale.observe.formatting import count, html_text, percent

_COLORS = 5
_AGES = 6
"""Kinds of staleness with a part of their own; the rest is one."""
_IN = {"prompts": "drawn", "tokens": "received"}
"""The entry of each account that the others add up to."""


def fates(rows: Sequence[Mapping[str, Any]]) -> str:
    """The accounts as the last row has them, and all generated tokens by staleness; empty where nothing was counted."""
    last: Mapping[str, Any] = next((row for row in reversed(rows) if "prompts/drawn" in row), {})
    bars = [_bar(f"{name.capitalize()} {came}", _account(last, name, came)) for name, came in _IN.items()]
    bars.append(_bar("Tokens of batches by staleness, in weight versions", _ages(rows)))
    found = "".join(bars)
    return f'<div class="card">{found}</div>' if found else ""


def _account(row: Mapping[str, Any], name: str, came: str) -> list[tuple[str, float]]:
    """The entries of an account that are not 0, the largest first."""
    entries = [
        (key.removeprefix(f"{name}/").replace("_", " "), float(value))
        for key, value in row.items()
        if key.startswith(f"{name}/") and key != f"{name}/{came}" and isinstance(value, (int, float)) and value > 0
    ]
    return sorted(entries, key=lambda entry: -entry[1])


def _ages(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Tokens of the whole run by staleness, those of the largest in one part; nothing where none was stale."""
    totals: dict[int, float] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith("staleness_tokens/") and isinstance(value, (int, float)):
                age = int(key.removeprefix("staleness_tokens/"))
                totals[age] = totals.get(age, 0.0) + value
    if not any(totals[age] for age in totals if age):
        return []
    parts = [(str(age), totals.get(age, 0.0)) for age in range(min(_AGES, max(totals) + 1))]
    if max(totals) >= _AGES:
        parts.append((f"{_AGES} and more", sum(number for age, number in totals.items() if age >= _AGES)))
    return [(name, number) for name, number in parts if number > 0]


def _bar(title: str, parts: Sequence[tuple[str, float]]) -> str:
    total = sum(number for _, number in parts)
    if not total:
        return ""
    css = [f"c{place % _COLORS + 1}" for place in range(len(parts))]
    bar = "".join(
        f'<div class="{one}" style="flex-grow:{number / total:.5f}" title="{html_text(name)}: {number:,.0f}"></div>'
        for one, (name, number) in zip(css, parts, strict=True)
    )
    legend = "".join(
        f'<li class="{one}"><i></i>{html_text(name)}<b>{percent(number / total)}</b><em>{count(number)}</em></li>'
        for one, (name, number) in zip(css, parts, strict=True)
    )
    return f'<h3>{html_text(title)}</h3><div class="bar">{bar}</div><ul class="legend">{legend}</ul>'
