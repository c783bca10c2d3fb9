"""A tracker that writes a line whenever a metric is over a bound, for somebody who watches that file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlscale.observe.trackers import TrackedRun


class Alarm:
    """Watches the metric `name` for values over `most`."""

    def __init__(self, run: TrackedRun, name: str, most: float, file: str) -> None:
        self._run, self._name, self._most, self._file = run.folder.name, name, most, Path(file)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Compare; an iteration need not have the metric."""
        value = metrics.get(self._name, self._most)
        if not value <= self._most:  # NaN raises the alarm, too
            with self._file.open("a") as file:
                file.write(f"{self._run}, iteration {iteration}: {self._name} is {value:g}\n")

    def close(self) -> None:
        """Nothing is held."""
