"""Where the time went: the loop's seconds by phase as one bar, and a window of the timeline as lanes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from rlscale.config.derived.needs import COLUMNS
from rlscale.observe.formatting import duration, html_text, percent
from rlscale.observe.summary import Summary
from rlscale.observe.ticks import labels, nice_ticks
from rlscale.observe.timeline import DRIVER, Span

_ITERATIONS_SHOWN = 4
_WIDE, _NARROW, _LABEL, _ROW, _BAR = 1080, 340, 84, 34, 20
_CSS = {
    "generate": "generate",
    "train": "train",
    "sync": "sync",
    **dict.fromkeys((*COLUMNS, "log-probs"), "train"),
}

_OF_DRIVER = {"train": "trainer", "sync": "sync", "generate": "waiting"}
"""Rows of what the driver does, by the name of its spans, from top to bottom."""
_OTHER = "other"


def phase_bar(summary: Summary) -> str:
    """The bar of generating, training, syncing and the rest, with its legend; empty when no time was measured."""
    parts = [
        ("generate", "Generating", summary.generate_seconds),
        ("train", "Training", summary.train_seconds),
        ("sync", "Syncing weights", summary.sync_seconds),
        ("other", "Other", summary.other_seconds),
    ]
    total = sum(seconds for _, _, seconds in parts)
    if total <= 0:
        return ""
    bar = "".join(
        f'<div class="{css}" style="flex-grow:{seconds / total:.5f}" title="{name}: {duration(seconds)}"></div>'
        for css, name, seconds in parts
        if seconds > 0
    )
    legend = "".join(
        f'<li class="{css}"><i></i>{name}<b>{percent(seconds / total)}</b><em>{duration(seconds)}</em></li>'
        for css, name, seconds in parts
    )
    inside = [("evaluations", summary.evaluate_seconds), ("checkpoints", summary.checkpoint_seconds)]
    notes = [f"{name} {duration(seconds)}" for name, seconds in inside if seconds > 0]
    note = f"Of “other”: {', '.join(notes)}. " if notes else ""
    before = f"Before the loop: {duration(summary.startup_seconds)} of starting up"
    if summary.warm_start_seconds > 0:
        before += f", {duration(summary.warm_start_seconds)} of it the warm start"
    if summary.teacher_seconds > 0:
        before += f", {duration(summary.teacher_seconds)} of it the teacher"
    return (
        f'<div class="card"><div class="bar">{bar}</div><ul class="legend">{legend}</ul>'
        f'<p class="note">The loop took {duration(total)}. {note}{before}.</p></div>'
    )


def timeline_chart(spans: Sequence[Span]) -> str:
    """A few iterations from the middle of the run as lanes; empty when there is no span."""
    window = pick_window(spans)
    if window is None:
        return ""
    wide, narrow = (_drawn(spans, window, width) for width in (_WIDE, _NARROW))
    share = overlap_share(spans)
    note = (
        ""
        if share is None
        else f'<p class="note">Engines were generating during {percent(share)} of the training time.</p>'
    )
    return (
        f'<div class="card timeline"><div class="on-wide">{wide}</div><div class="on-narrow">{narrow}</div>{note}</div>'
    )


def _drawn(spans: Sequence[Span], window: tuple[float, float], width: int) -> str:
    """The lanes of the window as SVG."""
    start, end = window
    lanes = _lanes(spans, start, end)
    text_width = max([_LABEL, *(12 + 6.4 * len(label) for label, _ in lanes)])
    height = len(lanes) * _ROW + 26
    scale = (width - text_width - 8) / (end - start)
    marks = []
    seconds = nice_ticks(0.0, end - start, 8 if width == _WIDE else 3)
    for tick, text in zip(seconds, labels(seconds, "figure"), strict=True):
        x = text_width + tick * scale
        if x <= width - 8:
            marks.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 22}"/>')
            marks.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{text} s</text>')
    for row, (label, inside) in enumerate(lanes):
        y = row * _ROW + (_ROW - _BAR) / 2
        marks.append(f'<text class="lane" x="0" y="{y + _BAR / 2 + 4:.1f}">{html_text(label)}</text>')
        for span in inside:
            left, right = max(start, span.start), min(end, span.end)
            css = _CSS.get(span.name, "other") + (" wait" if label == "waiting" else "")
            marks.append(
                f'<rect class="{css}" x="{text_width + (left - start) * scale:.1f}" y="{y:.1f}" rx="2" height="{_BAR}"'
                f' width="{max(0.8, (right - left) * scale):.1f}">'
                f"<title>{html_text(span.name)}, {duration(span.seconds)}</title></rect>"
            )
    return f'<svg viewBox="0 0 {width} {height}">{"".join(marks)}</svg>'


def pick_window(spans: Sequence[Span]) -> tuple[float, float] | None:
    """Start and end of the window that is shown: a few whole iterations from the middle, else everything."""
    if not spans:
        return None
    trains = [s for s in spans if s.lane == DRIVER and s.name == "train"]
    if len(trains) < 3:
        start, end = min(s.start for s in spans), max(s.end for s in spans)
    else:
        # A run that was continued has a gap of any length between two trains: stay on one side of it.
        shown = min(_ITERATIONS_SHOWN, len(trains) - 1)
        lengths = [b.end - a.end for a, b in pairwise(trains)]
        usual = sorted(lengths)[len(lengths) // 2]
        middle = (len(trains) - shown) / 2
        first = min(
            range(len(trains) - shown),
            key=lambda i: (sum(lengths[i : i + shown]) > 5 * shown * usual, abs(i - middle)),
        )
        start, end = trains[first].end, trains[first + shown].end
        end = max([end, *(s.end for s in spans if s.name == "sync" and end <= s.start < end + 0.2 * (end - start))])
    return (start, end) if end > start else (start, start + 1e-3)


def overlap_share(spans: Sequence[Span]) -> float | None:
    """Share of the training time during which an engine was generating; None when either was never measured."""
    trains = [(s.start, s.end) for s in spans if s.lane == DRIVER and s.name == "train"]
    engines = _merged([(s.start, s.end) for s in spans if s.lane != DRIVER and s.name == "generate"])
    training = sum(end - start for start, end in trains)
    if not engines or training <= 0:
        return None
    both, first = 0.0, 0
    for start, end in trains:
        while first < len(engines) and engines[first][1] <= start:
            first += 1
        for left, right in engines[first:]:
            if left >= end:
                break
            both += min(end, right) - max(start, left)
    return both / training


def _merged(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of the intervals, sorted, without overlaps."""
    union: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((start, end))
    return union


def _lanes(spans: Sequence[Span], start: float, end: float) -> list[tuple[str, list[Span]]]:
    """Rows of the picture from top to bottom: lanes of others, then what the driver did; each with its spans inside."""
    inside = [s for s in spans if s.end > start and s.start < end]
    lanes: dict[str, list[Span]] = {}
    for span in inside:
        lanes.setdefault(lane_of(span.lane, span.name), []).append(span)
    return sorted(lanes.items(), key=lambda lane: lane_order(lane[0]))


def lane_of(lane: str, name: str) -> str:
    """The row that a span is drawn in: a lane's own, or for the driver what it did."""
    return _OF_DRIVER.get(name, _OTHER) if lane == DRIVER else lane


def lane_order(label: str) -> tuple[int, str]:
    """Where a row stands: others' lanes first, by name and number, then the driver's."""
    last = (*_OF_DRIVER.values(), _OTHER)
    by_number = re.sub(r"\d+", lambda digits: digits[0].zfill(6), label)
    return (1 + last.index(label) if label in last else 0), by_number
