"""metrics.jsonl: the metrics of every iteration."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscale.observe import jsonl

FILE = "metrics.jsonl"


class MetricsLog:
    """Writes metrics.jsonl: `{"iteration": i, "time": seconds since 1970, ...}` per line, iteration 0 before training.

    A run that continues from iteration k gives `resumed=k`: lines of later iterations, which will be made again, go.
    Several lines may belong to one iteration (an evaluation comes after its training); `read_metrics` joins them.
    """

    def __init__(self, folder: Path, resumed: int | None = None, file: str = FILE) -> None:
        path = folder / file
        if path.exists():
            kept = [] if resumed is None else [r for r in jsonl.read(path) if r.get("iteration", 0) <= resumed]
            jsonl.rewrite(path, kept)
        self._file = jsonl.open_to_append(path)

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Append one line."""
        self._file.write(jsonl.to_line({"iteration": iteration, "time": round(time.time(), 3), **metrics}))

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()


def read_metrics(folder: Path, file: str = FILE) -> list[dict[str, Any]]:
    """The metrics of a run, one dict per iteration in order; where lines overlap the last one holds."""
    merged: dict[int, dict[str, Any]] = {}
    for record in jsonl.read(folder / file):
        if isinstance(record.get("iteration"), int):
            merged.setdefault(record["iteration"], {}).update(record)
    return [merged[iteration] for iteration in sorted(merged)]
