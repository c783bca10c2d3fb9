"""Line charts as SVG, drawn here so that the report needs nothing from outside."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlscale.observe.formatting import count, figure, html_text, percent
from rlscale.observe.ticks import labels, nice_ticks

Point = tuple[float, float]

MAX_POINTS = 400
SMOOTH_FROM = 24
"""Curves with fewer points are drawn as they are; longer ones faintly, with their moving average over them."""


@dataclass(frozen=True)
class Series:
    """One curve: its name, its points (iteration, value) in order, and how it is drawn."""

    name: str
    points: Sequence[Point]
    color: int = 1
    """Number of the colour in the page's palette, 1 to 5."""
    dots: bool = False
    """Mark every point: for the few points of an evaluation."""
    smooth: bool = True
    """Draw a moving average over a curve of many points: for what is measured, not for what is set."""


@dataclass(frozen=True)
class Chart:
    """A chart on its card. `form` is how values are written: figure, percent or count."""

    title: str
    series: Sequence[Series]
    form: str = "figure"
    log: bool = False
    bounds: tuple[float, float] | None = None
    x_name: str = "iteration"
    """What is counted from left to right."""
    zero: bool = False
    """Draw also what is zero throughout: where that is news."""
    width: int = 360
    height: int = 190

    @property
    def left_out(self) -> list[str]:
        """What is not drawn because it is zero throughout, in the chart's own words."""
        zeros = [] if self.zero else [s for s in self.series if s.points and not any(y for _, y in s.points)]
        alone = len(self.series) == 1
        return [self.title if alone else f"{self.title} ({s.name})" for s in zeros]

    def svg(self) -> str:
        """The card's HTML, or an empty string when no series has a point that can be drawn."""
        series = [s for s in (_drawable(s, self.log) for s in self.series) if s.points]
        if not self.zero:
            series = [s for s in series if any(y for _, y in s.points)]
        if not series:
            return ""
        frame = _Frame.around(series, self)
        body = [frame.axes()]
        body += [_curve(s, frame) for s in series]
        body.append('<line class="cross" y1="0" y2="0"/>')
        data = {
            "left": frame.left,
            "right": frame.right,
            "top": frame.top,
            "bottom": frame.bottom,
            "x": list(frame.x_range),
            "form": self.form,
            "xName": self.x_name,
            "series": [
                {"name": s.name, "color": s.color, "points": [list(p) for p in _thin(s.points)]} for s in series
            ],
        }
        readout = "".join(
            f'<span class="c{s.color}"><i></i>{html_text(s.name)} <b>{_written(s.points[-1][1], self.form)}</b></span>'
            for s in series
        )
        return (
            f'<figure class="card chart" data-chart="{html_text(json.dumps(data))}">'
            f'<figcaption><h3>{html_text(self.title)}</h3><div class="readout">{readout}</div></figcaption>'
            f'<svg viewBox="0 0 {self.width} {self.height}">'
            f"{''.join(body)}</svg></figure>"
        )


@dataclass(frozen=True)
class _Frame:
    """From values to positions in the picture."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    y_ticks: Sequence[float]
    y_labels: Sequence[str]
    log: bool

    @classmethod
    def around(cls, series: Sequence[Series], chart: Chart) -> _Frame:
        xs = [x for s in series for x, _ in s.points]
        ys = [y for s in series for _, y in s.points]
        x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, max(xs) + 0.5)
        low, high = chart.bounds or (min(ys), max(ys))
        low, high = min([low, *ys]), max([high, *ys])
        if chart.log:
            ticks = [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
            ticks = ticks if len(ticks) > 1 else [ticks[0], ticks[0] * 10]
            y_range = (ticks[0], ticks[-1])
            ticks = ticks[:: max(1, math.ceil(len(ticks) / 5))]
        else:
            ticks = nice_ticks(low, high, 5 if chart.height > 250 else 4)
            y_range = (min(low, ticks[0]), max(high, ticks[-1]))
        texts = labels(ticks, chart.form, log=chart.log)
        left = max(46.0, 14.0 + 6.0 * max(map(len, texts)))
        return cls(left, chart.width - 10.0, 10.0, chart.height - 24.0, x_range, y_range, ticks, texts, chart.log)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def axes(self) -> str:
        """Grid lines with their values, and iterations below."""
        marks = []
        for tick, text in zip(self.y_ticks, self.y_labels, strict=True):
            y = self.y(tick)
            marks.append(f'<line class="grid" x1="{self.left:.1f}" x2="{self.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            marks.append(f'<text class="tick" x="{self.left - 7:.1f}" y="{y + 3.5:.1f}" text-anchor="end">')
            marks.append(f"{text}</text>")
        wanted = 5 if self.right - self.left < 500 else 10
        ticks = [t for t in nice_ticks(*self.x_range, wanted) if t % 1 == 0 and self.x_range[0] <= t <= self.x_range[1]]
        for tick in ticks:
            marks.append(f'<text class="tick" x="{self.x(tick):.1f}" y="{self.bottom + 16:.1f}" text-anchor="middle">')
            marks.append(f"{tick:,.0f}</text>")
        return "".join(marks)


def moving_average(points: Sequence[Point]) -> list[Point]:
    """Centred mean over up to 25 points, fewer near the ends, so that it lags neither behind nor ahead."""
    reach = max(1, min(12, len(points) // 24))
    smooth = []
    for i, (x, _) in enumerate(points):
        # The same reach on both sides, but never so short that the ends follow single points.
        here = max(reach // 2, min(reach, i, len(points) - 1 - i))
        part = points[max(0, i - here) : i + here + 1]
        smooth.append((x, sum(y for _, y in part) / len(part)))
    return smooth


def _drawable(series: Series, log: bool) -> Series:
    points = [(float(x), float(y)) for x, y in series.points if math.isfinite(y) and (y > 0 or not log)]
    return replace(series, points=points)


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points, each the mean of its neighbours; the last one stays."""
    every = math.ceil(len(points) / MAX_POINTS)
    if every == 1:
        return list(points)
    parts = [points[i : i + every] for i in range(0, len(points), every)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _curve(series: Series, frame: _Frame) -> str:
    points = _thin(series.points)
    css = f"c{series.color}"
    if len(points) == 1 or series.dots:
        dots = "".join(
            f'<circle class="dot {css}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.5"/>' for x, y in points
        )
        return _path(points, frame, f"curve {css}") + dots if len(points) > 1 else dots
    if len(points) < SMOOTH_FROM or not series.smooth:
        return _path(points, frame, f"curve {css}")
    return _path(points, frame, f"raw {css}") + _path(moving_average(points), frame, f"curve {css}")


def _path(points: Sequence[Point], frame: _Frame, css: str) -> str:
    steps = " ".join(f"{'L' if i else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}" for i, (x, y) in enumerate(points))
    return f'<path class="{css}" d="{steps}"/>'


def _written(value: float, form: str) -> str:
    return {"percent": percent, "count": count}.get(form, figure)(value)
