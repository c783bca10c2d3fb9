"""How much may be under way: when another group may be started."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlscale.config.schema.rollout_config import RolloutConfig, Stale

RAMP = 4
"""Batches after the first over which over-sampling grows to its full size."""


@dataclass(frozen=True)
class Progress:
    """Where the rollout stands."""

    batches: int
    """Batches handed out in this run, all its earlier parts included."""
    taken: bool
    """Whether the batch of the present weight version is one of them."""
    groups: int
    """Groups that were started and are not finished."""
    samples: int
    """Samples that were started, or wait for their turn, and are not finished."""
    ready: int
    """Finished groups that no batch has taken."""


@dataclass(frozen=True)
class Capacity:
    """The rule of admission. It counts samples: the slots of those that are finished are free for another group.

    While the trainer waits for a batch, `ahead` batches may be under way or ready, one fewer once it has taken one.
    That is `max_staleness` + 1 or, with over-sampling, its factor. Besides, with a bound above 0,

    - a group is started when an engine has a free slot for one of its samples and not earlier, so that its tokens are
      as young as they can be;
    - nothing is started while a whole batch is ready: what waits there only gets older.

    With `rollout.stale=wait` groups are counted instead of samples, because each of them must leave in time.

    On-policy (a bound of 0) that is exactly one batch for each weight version, whose prompts are drawn at once: what it
    holds depends on the seed alone.
    """

    groups_per_batch: int
    samples_per_group: int
    max_staleness: int
    over_sampling: float
    by_groups: bool

    @staticmethod
    def of(rollout: RolloutConfig) -> Capacity:
        """The one that is configured."""
        return Capacity(
            rollout.groups_per_iteration,
            rollout.samples_per_group,
            rollout.max_staleness,
            rollout.over_sampling,
            by_groups=rollout.stale is Stale.wait or rollout.max_staleness == 0,
        )

    @property
    def most_ahead(self) -> int:
        """Batches that may be under way or ready besides the one that the trainer waits for."""
        return self.max_staleness if self.over_sampling == 1.0 else math.ceil(self.over_sampling) - 1

    def ahead(self, batches: int) -> float:
        """Batches that may be under way or ready while the trainer waits for batch number `batches`, counted from 0.

        Over-sampling begins at 1 and reaches its factor `RAMP` batches later: the first groups to finish are those with
        short responses, and a batch of the first of many would hold hardly anything else.
        """
        if self.over_sampling == 1.0:
            return self.max_staleness + 1
        return 1 + (self.over_sampling - 1) * min(batches / RAMP, 1.0)

    def startable(self, now: Progress, free: int) -> int:
        """Groups that may be started, given the slots of all engines that nobody wants."""
        ahead = (self.ahead(now.batches - now.taken) - now.taken) * self.groups_per_batch
        under_way = now.groups if self.by_groups else now.samples / self.samples_per_group
        room = int(ahead - under_way - now.ready + 1e-9)
        if self.max_staleness > 0:
            if now.ready >= self.groups_per_batch:
                return 0
            room = min(room, -(-free // self.samples_per_group))
        return max(room, 0)
