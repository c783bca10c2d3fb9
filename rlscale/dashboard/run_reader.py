"""One run's files, read as they grow: metrics and engines' loads as columns, the timeline as spans."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlscale.dashboard.columns import Columns
from rlscale.dashboard.timeline_lanes import Spans
from rlscale.observe import load_log, metrics, timeline
from rlscale.observe.tail import Tail, sampled_lines

_SAMPLED_FROM = 8 << 20
"""Bytes of a file of metrics from which a sample of it is shown until all of it is read."""
_SAMPLED = 1100
ENGINES = "engines/"
"""What names of engines' numbers begin with: engines/<address>/running."""


class RunReader:
    """`refresh` reads what is new. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.revision = 0
        """Grows whenever there is something new."""
        self._metrics, self._loads, self._spans = Columns(), Columns(), Spans()
        self._tails = [Tail(folder / module.FILE) for module in (metrics, load_log, timeline)]
        self._sample: Columns | None = None
        self._done = False
        self._takers: list[Callable[[dict[str, Any]], None]] = [self._metric, self._load, self._span]

    @property
    def metrics(self) -> Columns:
        """The metrics; a sample of them while a long file is being read."""
        return self._metrics if self._sample is None else self._sample

    @property
    def loads(self) -> Columns:
        """The engines' loads, names begin with ENGINES."""
        return self._loads

    @property
    def spans(self) -> Spans:
        """The timeline."""
        return self._spans

    @property
    def share(self) -> float:
        """How much of its files was read, of 1; half a line at the end does not count as unread."""
        return 1.0 if self._done else min(tail.share for tail in self._tails)

    def refresh(self, budget_s: float = 0.2) -> bool:
        """Read what is new, for about so long; whether all of it was."""
        end = time.monotonic() + budget_s
        with self.lock:
            if self.revision == 0:
                self.revision = 1
                self._look_first()
            ended = 0
            for tail, take in zip(self._tails, self._takers, strict=True):
                while time.monotonic() < end:
                    generation = tail.generation
                    lines = tail.read(1 << 20)
                    if tail.generation != generation:
                        self._forget(tail)
                    if not lines:
                        ended += 1
                        break
                    _give(lines, take)
                    self.revision += 1
            self._done = ended == len(self._tails)
            if self._done and self._sample is not None:
                self._sample = None
                self.revision += 1
            return self._done

    def _look_first(self) -> None:
        """A sample of a long file, which takes milliseconds to read."""
        path = self._tails[0].path
        if os.path.isfile(path) and path.stat().st_size > _SAMPLED_FROM:
            self._sample = sample = Columns()
            _give(sampled_lines(path, _SAMPLED), lambda record: self._metric(record, sample))

    def _forget(self, tail: Tail) -> None:
        """A run that continues from a checkpoint has written its file anew."""
        number = self._tails.index(tail)
        if number == 0:
            self._metrics, self._sample = Columns(), None
        elif number == 1:
            self._loads = Columns()
        else:
            self._spans = Spans()

    def _metric(self, record: dict[str, Any], columns: Columns | None = None) -> None:
        if isinstance(record.get("iteration"), int):
            (columns or self._metrics).add(record["iteration"], record)

    def _load(self, record: dict[str, Any]) -> None:
        engines = record.get("engines")
        if isinstance(record.get("iteration"), int) and isinstance(engines, dict):
            for url, load in engines.items():
                if isinstance(load, dict):
                    named = {f"{ENGINES}{url.split('//')[-1]}/{name}": value for name, value in load.items()}
                    self._loads.add(record["iteration"], named)

    def _span(self, record: dict[str, Any]) -> None:
        self._spans.add(record)


def _give(lines: Iterable[bytes], take: Callable[[dict[str, Any]], None]) -> None:
    """Each record to its taker; one with numbers that no float or index holds is passed over."""
    for record in records(lines):
        with suppress(OverflowError, TypeError):
            take(record)


def records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of lines; what is none is passed over."""
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record
