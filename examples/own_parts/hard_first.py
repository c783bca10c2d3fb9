"""A buffer that prefers hard prompts, and a filter that trains on nothing else for a while."""

from __future__ import annotations

import numpy as np

from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group


class HardFirst(Buffer):
    """Of the finished groups those with the lowest mean reward leave first, as far as no other gets too stale."""

    def rank(self, group: Group, staleness: int) -> float:
        """The mean reward."""
        return float(np.mean(group.rewards))


def not_solved(group: Group, most: float = 0.9) -> bool:
    """Whether the mean reward of a group is at most `most`."""
    return bool(np.mean(group.rewards) <= most)
