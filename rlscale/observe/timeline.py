"""timeline.jsonl: what happened when, and how the time of the loop divides into generating, training and syncing."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscale.observe import jsonl

FILE = "timeline.jsonl"
DRIVER = "driver"
ENGINES = "engines"
EVALUATION = "evaluation"
PASSES = "passes"

MOST_LANES = 64
"""Ranks, and engines, that have a lane each; of more there is only what all of them do."""

PHASES = ("generate", "train", "sync")
"""Names of driver spans that the summary lists; every other second of the loop is `other`."""


@dataclass(frozen=True)
class Span:
    """One interval on a lane; start and end in seconds since 1970, the clock that all processes of a machine share."""

    name: str
    lane: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Length of the interval."""
        return self.end - self.start


class Timeline:
    """Collects spans and writes each to timeline.jsonl when it ends.

    The driver's lane holds `generate` (waiting for groups), `train`, `sync`, `evaluate`, `checkpoint`: a span inside
    another interrupts it, so the lane's spans never overlap and its seconds add up. Other lanes (`engines`: when the
    rollout service was generating; `evaluation`: when engines of its own were measuring; `passes`: the models' passes
    over the batch before the steps; `rank 0`, `engine 127.0.0.1:30000`: what one of them did) may overlap anything.
    """

    def __init__(self, folder: Path, *, resumed: bool = False, clock: Callable[[], float] = time.time) -> None:
        path = folder / FILE
        if not resumed:
            path.unlink(missing_ok=True)
        self._file = jsonl.open_to_append(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._open: list[str] = []
        self._since = 0.0
        self._seconds: dict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._loop_start: float | None = None
        self._loop_seconds = 0.0
        self._counted: dict[str, float] = {}

    @contextmanager
    def span(self, name: str, lane: str = DRIVER) -> Iterator[None]:
        """Time the block. On the driver's lane, from one thread only."""
        if lane != DRIVER:
            start = self._clock()
            try:
                yield
            finally:
                self.add(name, lane, start, self._clock())
            return
        self._turn_to([*self._open, name])
        try:
            yield
        finally:
            self._turn_to(self._open[:-1])

    def add(self, name: str, lane: str, start: float, end: float) -> None:
        """Record an interval that somebody else measured (seconds since 1970)."""
        span = Span(name, lane, start, max(start, end))
        with self._lock:
            self._seconds[lane][name] += span.seconds
            if not self._file.closed:
                record = {"name": name, "lane": lane, "start": round(span.start, 4), "end": round(span.end, 4)}
                self._file.write(jsonl.to_line(record))

    def add_lanes(self, lanes: Mapping[str, Sequence[tuple[str, float, float]]]) -> None:
        """Record what some others of a kind did: name, start and end by lane; nothing of more than MOST_LANES."""
        for lane, spans in lanes.items() if len(lanes) <= MOST_LANES else ():
            for name, start, end in spans:
                self.add(name, lane, start, end)

    def begin_loop(self) -> None:
        """The loop starts now: from here on the driver's spans are counted by `phases`."""
        self._seconds[DRIVER].clear()
        self._loop_start = self._clock()

    def end_loop(self) -> None:
        """The loop is over: later spans are drawn but no longer counted. May be called twice."""
        if self._loop_start is not None:
            self._loop_seconds += self._clock() - self._loop_start
            self._counted = self.totals()
            self._loop_start = None

    def phases(self) -> dict[str, float]:
        """Seconds of the loop so far by phase: `generate`, `train`, `sync`, `other`, which add up to `loop`.

        `other` holds the evaluations, checkpoints and everything that no span covers.
        """
        if self._loop_start is None:
            loop, seconds = self._loop_seconds, self._counted
        else:
            loop, seconds = self._clock() - self._loop_start, self.totals()
        named = {name: seconds.get(name, 0.0) for name in PHASES}
        return {**named, "other": max(0.0, loop - sum(named.values())), "loop": loop}

    def totals(self, lane: str = DRIVER) -> dict[str, float]:
        """Seconds by span name on a lane, since the loop began for the driver's."""
        with self._lock:
            return dict(self._seconds[lane])

    def close(self) -> None:
        """Close the file. May be called twice."""
        with self._lock:
            self._file.close()

    def _turn_to(self, names: list[str]) -> None:
        """End the piece of the innermost open span here, and go on with the stack `names`."""
        now = self._clock()
        if self._open:
            self.add(self._open[-1], DRIVER, self._since, now)
        self._open, self._since = names, now


def read_timeline(folder: Path) -> list[Span]:
    """All spans of a run in order of their start."""
    spans = []
    for record in jsonl.read(folder / FILE):
        if _is_span(record):
            spans.append(Span(str(record["name"]), str(record["lane"]), float(record["start"]), float(record["end"])))
    return sorted(spans, key=lambda span: (span.start, span.end))


def _is_span(record: Mapping[str, Any]) -> bool:
    numbers = all(isinstance(record.get(key), (int, float)) for key in ("start", "end"))
    return numbers and "name" in record and "lane" in record
