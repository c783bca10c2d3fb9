"""Replacing finished groups that teach nothing (DAPO's dynamic sampling, arXiv 2503.14476, section 3.2)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

from rlscale.config.schema.algo_config import RefillConfig
from rlscale.data.sample import Group

Reject = Callable[[Group], bool]
"""Whether a finished group is to be replaced by another one."""


def equal_rewards(group: Group) -> bool:
    """Whether all samples have the same reward: every score relative to the group is 0 then."""
    rewards = group.rewards
    return bool(rewards.max() == rewards.min())


class Refill:
    """Rejected groups, set aside while others are generated in their place.

    For each batch up to `most` groups are set aside, and dropped when it has left. One more than that is like any good
    group: so every batch gets complete, and costs at most `most` groups more than it holds.

    On-policy the batch is filled up with the rejected groups of lowest prompt index, in whatever order they are
    finished, because those set aside are always the highest so far. Off-policy they are the oldest: a group that goes
    to the buffer takes the place of one that is as old or older, which keeps what the buffer has planned.
    """

    def __init__(self, reject: Reject | None, most: int) -> None:
        """`reject` None sets nothing aside."""
        self._reject = reject
        self._most = most
        self._aside: list[tuple[int, int, Group]] = []  # a heap: youngest tokens first, then lowest prompt index
        self.dropped = 0

    @staticmethod
    def of(config: RefillConfig, groups_per_iteration: int) -> Refill:
        """The configured one."""
        if not config.drop_equal:
            return Refill(None, 0)
        return Refill(equal_rewards, math.ceil(config.max_dropped * groups_per_iteration - 1e-9))  # 1.1 * 10 is 11

    def admit(self, group: Group) -> Group | None:
        """The group to keep, given one that was finished: itself, or one that was set aside before, or none yet."""
        if self._reject is None or not self._reject(group):
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
