"""Filters: which finished groups are worth training on. A group that is not is replaced by another one.

How many may be replaced for a batch is `algo.refill.max_dropped`; see `rlscale.rollout.refill`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlscale.data.sample import Group


class Filter(Protocol):
    """What `rollout.filter` names: a function, or a class whose instances are called like this."""

    def __call__(self, group: Group, /) -> bool:
        """Whether to train on a finished group. Must not change it, and must say the same of it again."""


def reason_of(rejected_by: Filter) -> str:
    """What a rejection is called in counters: the name of the function or class."""
    return getattr(rejected_by, "__name__", type(rejected_by).__name__)


def keep_all(group: Group) -> bool:
    """Every group."""
    return True


def varied_rewards(group: Group) -> bool:
    """Groups whose rewards differ: where they are all equal, every score relative to the group is 0.

    Source: DAPO's dynamic sampling, arXiv 2503.14476, section 3.2.
    """
    rewards = group.rewards
    return bool(rewards.max() != rewards.min())


@dataclass(frozen=True)
class LengthBetween:
    """Groups whose mean response length in tokens is within bounds."""

    shortest: float = 0
    longest: float = math.inf

    def __call__(self, group: Group) -> bool:
        """See Filter."""
        return self.shortest <= float(np.mean([sample.response_length for sample in group.samples])) <= self.longest
