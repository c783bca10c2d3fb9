"""engine_loads.jsonl: how busy each engine was in every iteration; and its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlscale.observe.charts import Chart, Point, Series
from rlscale.observe.metrics import MetricsLog, read_metrics

FILE = "engine_loads.jsonl"
RESTARTS = "engine_restarts/"
"""Beginning of the metrics that tell how often an engine was started again, before its address; of those that were."""
_CHARTS = {
    "running": ("Requests running in each engine", "figure"),
    "waiting": ("Requests waiting in each engine", "figure"),
    "usage": ("Cache in use in each engine", "percent"),
}
_COLORS = 5
"""Engines that have a curve each; of more, the curves are those of the least and the most, and the mean."""

Rows = Sequence[Mapping[str, Any]]


class EngineLoadLog:
    """Writes `{"iteration": i, "time": s, "engines": {URL: {"running": .., "waiting": .., "usage": ..}}}` per line.

    Numbers are means since the line before; `usage` is the share of the cache that is in use. There is no file where no
    engine told anything. For `resumed` see MetricsLog.
    """

    def __init__(self, folder: Path, resumed: int | None = None) -> None:
        self._folder, self._resumed = folder, resumed
        self._log = self._opened() if (folder / FILE).exists() else None

    def log(self, iteration: int, loads: Mapping[str, Mapping[str, float]]) -> None:
        """Append one line, if there is anything to say."""
        if loads:
            self._log = self._log or self._opened()
            self._log.log(iteration, {"engines": loads})

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._log is not None:
            self._log.close()

    def _opened(self) -> MetricsLog:
        return MetricsLog(self._folder, self._resumed, FILE)


def read_engine_loads(folder: Path) -> list[dict[str, Any]]:
    """One dict per iteration, in order."""
    return read_metrics(folder, FILE)


def engine_loads(rows: Rows) -> list[Chart]:
    """What ran and waited in each engine, and how full its cache was; nothing where no engine told."""
    engines = sorted({url for row in rows for url in row["engines"]})
    return [Chart(title, _curves(rows, engines, name), form=form, zero=True) for name, (title, form) in _CHARTS.items()]


def _curves(rows: Rows, engines: Sequence[str], name: str) -> list[Series]:
    told = [(float(row["iteration"]), {url: float(load[name]) for url, load in row["engines"].items()}) for row in rows]
    if len(engines) <= _COLORS:
        own = {url: [(x, loads[url]) for x, loads in told if url in loads] for url in engines}
        return [Series(url.split("//")[-1], own[url], color) for color, url in enumerate(engines, 1)]
    every = [(x, list(loads.values())) for x, loads in told if loads]
    curves: dict[str, list[Point]] = {
        "least": [(x, min(values)) for x, values in every],
        "mean": [(x, sum(values) / len(values)) for x, values in every],
        "most": [(x, max(values)) for x, values in every],
    }
    return [Series(called, points, color) for color, (called, points) in enumerate(curves.items(), 1)]
