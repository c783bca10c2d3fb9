"""Which checkpoints of a run stay however old they are: those whose iterations are the best by a metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.schema.checkpoint_config import CheckpointConfig, Order
from rlscale.observe.metrics import read_metrics


@dataclass
class BestCheckpoints:
    """The best `count` by the metric `by`, which is read in the metrics of the run in the folder `run`."""

    count: int
    by: str
    order: Order
    run: Path
    note: Callable[[str], None]
    """Is told, once, if no iteration has the metric."""
    _said: bool = False

    @staticmethod
    def of(config: CheckpointConfig, run: Path, note: Callable[[str], None]) -> BestCheckpoints | None:
        """As the section says; None where none is kept for being the best."""
        if not config.keep_best:
            return None
        return BestCheckpoints(config.keep_best, config.best_by, config.best_is, run, note)

    def among(self, iterations: Iterable[int]) -> set[int]:
        """The best of these iterations. Of two with the same value the later is better; one without is never among
        them."""
        rows = read_metrics(self.run)
        values = {row["iteration"]: row[self.by] for row in rows if _is_number(row.get(self.by))}
        if not values and not self._said:
            self._said = True
            like = did_you_mean(nearest(self.by, {key for row in rows for key in row}))
            self.note(f"checkpoint.best_by={self.by}: no iteration has a metric of that name so far{like}")
        sign = 1 if self.order is Order.highest else -1
        measured = [one for one in iterations if one in values]
        return set(sorted(measured, key=lambda one: (sign * values[one], one))[-self.count :])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
