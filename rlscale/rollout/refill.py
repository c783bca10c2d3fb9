"""Replacing finished groups that a filter rejects (as in DAPO's dynamic sampling, arXiv 2503.14476, section 3.2)."""

from __future__ import annotations

import heapq
import math
from typing import Any

from rlscale.config.schema.algo_config import RefillConfig
from rlscale.data.sample import Group
from rlscale.rollout.filters import Filter, keep_all, varied_rewards


class Refill:
    """Rejected groups, set aside while others are generated in their place.

    For each batch up to `most` groups are set aside, and dropped when it has left. One more than that is like any good
    group: so every batch gets complete, and costs at most `most` groups more than it holds.

    On-policy the batch is filled up with the rejected groups of lowest prompt index, in whatever order they are
    finished, because those set aside are always the highest so far. Off-policy they are the oldest: a group that goes
    to the buffer takes the place of one that is as old or older, which keeps what the buffer has planned.
    """

    def __init__(self, keep: Filter, most: int) -> None:
        self._keep = keep
        self._most = most
        self._aside: list[tuple[int, int, Group]] = []  # a heap: youngest tokens first, then lowest prompt index
        self.dropped = 0

    @staticmethod
    def of(config: RefillConfig, groups_per_iteration: int, keep: Filter = keep_all) -> Refill:
        """The one of `algo.refill`, for groups that `keep` does not keep, either."""

        def both(group: Group) -> bool:
            return (not config.drop_equal or varied_rewards(group)) and bool(keep(group))

        return Refill(both, math.ceil(config.max_dropped * groups_per_iteration - 1e-9))  # 1.1 * 10 is 11

    def admit(self, group: Group) -> Group | None:
        """The group to keep, given one that was finished: itself, or one that was set aside before, or none yet."""
        if self._keep(group):
            return group
        if len(self._aside) < self._most:
            heapq.heappush(self._aside, _ranked(group))
            return None
        return heapq.heappushpop(self._aside, _ranked(group))[2]

    def settle(self) -> None:
        """The batch has left: drop and count what was replaced for it."""
        self.dropped += len(self._aside)
        self._aside.clear()

    def state_dict(self) -> dict[str, Any]:
        """The groups set aside, with their samples, and the counter."""
        return {"groups": [group for _, _, group in sorted(self._aside)], "dropped": self.dropped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what was held when the state was saved."""
        self._aside = [_ranked(group) for group in state["groups"]]
        heapq.heapify(self._aside)
        self.dropped = int(state["dropped"])


def _ranked(group: Group) -> tuple[int, int, Group]:
    return -group.min_version, group.prompt.index, group
