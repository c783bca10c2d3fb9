"""A rollout service that says how long the trainer waited for its batches."""

from __future__ import annotations

import time
from dataclasses import replace

from rlscale.data.sample import Group
from rlscale.rollout.rollout_stats import RolloutStats
from rlscale.rollout.service import RolloutService


class TimedService(RolloutService):
    """Everything is the shipped service's; each iteration has a metric `batch_waited_s` besides."""

    waited_s = 0.0

    async def next_batch(self) -> list[Group]:
        """The next batch, by the clock."""
        began = time.monotonic()
        groups = await super().next_batch()
        self.waited_s = time.monotonic() - began
        return groups

    async def stats(self) -> RolloutStats:
        """The stats, with the seconds of the last batch."""
        stats = await super().stats()
        return replace(stats, measures={**stats.measures, "batch_waited_s": self.waited_s})
