"""Rewards and drift of a study by iterations, as one SVG: a row for each setting, a colour for each correction."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain

from mismatch_cells import CORRECTIONS, SETTINGS
from study import Cell, Outcome, Point

from rlscale.observe.charts import Chart, Series

WIDTH, HEIGHT = 430, 165
TITLE, LEGEND = 26, 30
"""Heights of the line over each chart, and of the one over all."""
REWARDS, DRIFTS = (0.0, 1.0), (1e-13, 1.0)
"""One scale for all settings, so that they can be compared."""
STYLE = """
svg { --c1: #2a62c9; --c2: #c9601a; --c3: #14857a; --c4: #8046c2; font-family: ui-sans-serif, system-ui, sans-serif }
text { font-size: 12.5px; fill: #1b1d21 } .tick { font-size: 10.5px; fill: #6b717c } .name { font-weight: 600 }
.grid { stroke: #e6e6e0 } .cross { display: none } .paper { fill: #ffffff }
path { fill: none; stroke-linejoin: round } .curve { stroke-width: 1.8 } .raw { stroke-opacity: 0.3 }
path.c1 { stroke: var(--c1) } path.c2 { stroke: var(--c2) } path.c3 { stroke: var(--c3) } path.c4 { stroke: var(--c4) }
rect.c1 { fill: var(--c1) } rect.c2 { fill: var(--c2) } rect.c3 { fill: var(--c3) } rect.c4 { fill: var(--c4) }
"""


def draw(found: Mapping[Cell, Outcome]) -> str:
    """The picture. Each curve is the mean over the seeds that were run."""
    settings = [setting for setting in SETTINGS if any(cell.setting == setting for cell in found)]
    height = LEGEND + len(settings) * (TITLE + HEIGHT)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {height}">',
        f'<style>{STYLE}</style><rect class="paper" width="100%" height="100%"/>',
        *(
            f'<rect class="c{color}" x="{14 + 150 * i}" y="9" width="11" height="11"/>'
            f'<text x="{30 + 150 * i}" y="19">{name}</text>'
            for i, (color, name) in enumerate(_colors(found).items())
        ),
    ]
    for row, setting in enumerate(settings):
        top = LEGEND + row * (TITLE + HEIGHT)
        parts += [
            _panel(f"{setting}: reward", _means(found, setting, "reward"), 0, top, log=False),
            _panel(f"{setting}: k3 of engine and trainer", _means(found, setting, "mismatch_k3"), WIDTH, top, log=True),
        ]
    return "\n".join((*parts, "</svg>", ""))


def _colors(found: Mapping[Cell, Outcome]) -> dict[int, str]:
    """The corrections that were run, by the numbers of their colours."""
    run = {cell.correction for cell in found}
    return {color: name for color, name in enumerate(CORRECTIONS, 1) if name in run}


def _panel(title: str, curves: Sequence[Series], x: int, y: int, *, log: bool) -> str:
    chart = Chart(title, curves, log=log, bounds=DRIFTS if log else REWARDS, width=WIDTH, height=HEIGHT)
    inside = re.search(r'<svg viewBox="[^"]*">(.*)</svg>', chart.svg())
    told = title if inside else f"{title}: 0 in every iteration"
    return (
        f'<text class="name" x="{x + 14}" y="{y + 17}">{told}</text>'
        f'<svg x="{x}" y="{y + TITLE}" width="{WIDTH}" height="{HEIGHT}">{inside.group(1) if inside else ""}</svg>'
    )


def _means(found: Mapping[Cell, Outcome], setting: str, metric: str) -> list[Series]:
    """A curve for each correction."""
    series = []
    for color, correction in _colors(found).items():
        here = [o.curve(metric) for c, o in found.items() if (c.setting, c.correction) == (setting, correction)]
        if here:
            series.append(Series(correction, _mean(here), color))
    return series


def _mean(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of curves, iteration by iteration."""
    values: dict[float, list[float]] = {}
    for x, y in chain.from_iterable(curves):
        values.setdefault(x, []).append(y)
    return [(x, sum(ys) / len(ys)) for x, ys in sorted(values.items())]
