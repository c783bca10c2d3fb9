"""Finished groups waiting for the trainer, and the rule by which they leave in time.

The staleness bound is kept by planning, not by throwing samples away. A group whose oldest token has version u must
leave in the batch of trainer version u + max_staleness at the latest: its deadline. A batch is handed out only if the
groups that stay behind, finished or still being generated, can all leave by their deadlines in the batches after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from rlscale.data.sample import NOT_GENERATED, Group


class GroupBuffer(Protocol):
    """What keeps finished groups until a batch takes them; `buffer._target_` names its class. Lives in one process.

    `dropped` counts groups that came too late for the staleness bound. Which groups leave, and in which order, must
    follow from what was put in and taken out, not from the time at which that happened.
    """

    dropped: int

    def __len__(self) -> int:
        """Groups in it."""

    def put(self, group: Group) -> None:
        """Keep a finished group. ValueError if one of the same prompt is here already."""

    def expire(self, version: int, max_staleness: int) -> list[Group]:
        """Remove, count and return the groups with tokens over the bound at trainer version `version`."""

    def take(self, n: int, version: int, max_staleness: int, in_flight: Sequence[int] = ()) -> list[Group]:
        """Remove and return n groups for the batch of trainer version `version`, or none if there are too few.

        None of them has a token over the bound. A buffer may also wait for groups that are still being generated, of
        which `in_flight` is the oldest version each; it must not wait when there are none.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that it holds: plain values, arrays, groups. `groups` is the list of groups."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what was held when the state was saved."""


class Buffer:
    """Groups by prompt index. `dropped` counts groups that came too late for the bound."""

    def __init__(self) -> None:
        self._groups: dict[int, Group] = {}
        self._oldest: dict[int, int] = {}  # oldest version in each group, NOT_GENERATED without one
        self._of_age: Counter[int] = Counter()  # groups by that version: asked whenever a group is finished
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._groups)

    def put(self, group: Group) -> None:
        """Keep a finished group. ValueError if one of the same prompt is here already."""
        if group.prompt.index in self._groups:
            raise ValueError(f"prompt {group.prompt.index} is in the buffer already")
        self._groups[group.prompt.index] = group
        self._oldest[group.prompt.index] = oldest = group.min_version
        self._of_age[oldest] += 1

    def expire(self, version: int, max_staleness: int) -> list[Group]:
        """Remove, count and return the groups with tokens over the bound at trainer version `version`.

        Happens only after a resume with a smaller bound or when an engine reports an older version than expected.
        """
        if all(_staleness(oldest, version) <= max_staleness for oldest in self._of_age):
            return []
        late = [index for index in sorted(self._groups) if self._staleness(index, version) > max_staleness]
        self.dropped += len(late)
        return [self._remove(index) for index in late]

    def take(self, n: int, version: int, max_staleness: int, in_flight: Sequence[int] = ()) -> list[Group]:
        """Remove and return n groups for the batch of trainer version `version`, ordered by prompt index.

        By `rank` as far as all others can still leave by their deadlines, else oldest version first, then lowest index.
        Empty if there are too few, or if the groups that would stay behind would miss their deadlines and waiting may
        help: `in_flight` is the oldest version of each group still being generated. Call `expire` first.
        """
        if len(self._groups) < n:
            return []
        ages = {index: self._staleness(index, version) for index in self._groups}
        preferred = sorted(self._groups, key=lambda index: (self.rank(self._groups[index], ages[index]), index))
        oldest_first = sorted(self._groups, key=lambda index: (-ages[index], index))
        flying = [max(version - oldest, 0) for oldest in in_flight]
        for ready in (preferred, oldest_first):
            left_behind = [ages[index] for index in ready[n:]] + flying
            if _can_leave_in_time(left_behind, n, max_staleness):
                return [self._remove(index) for index in sorted(ready[:n])]
        return [] if in_flight else [self._remove(index) for index in sorted(oldest_first[:n])]

    def rank(self, group: Group, staleness: int) -> Any:
        """What groups are sorted by, lowest first out, then by prompt index; `staleness` is that of the oldest token.

        Here the oldest leave first. A subclass may prefer others: whatever it prefers, no group misses its deadline.
        """
        return -staleness

    def state_dict(self) -> dict[str, Any]:
        """The groups by prompt index, and the counter."""
        return {"groups": [self._groups[index] for index in sorted(self._groups)], "dropped": self.dropped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what was held when the state was saved."""
        self._groups.clear()
        self._oldest.clear()
        self._of_age.clear()
        for group in state["groups"]:
            self.put(group)
        self.dropped = int(state["dropped"])

    def _remove(self, index: int) -> Group:
        oldest = self._oldest.pop(index)
        self._of_age[oldest] -= 1
        if not self._of_age[oldest]:
            del self._of_age[oldest]
        return self._groups.pop(index)

    def _staleness(self, index: int, version: int) -> int:
        return _staleness(self._oldest[index], version)


def _staleness(oldest: int, version: int) -> int:
    """Trainer's version minus the oldest in a group; 0 for groups without generated tokens."""
    return max(version - oldest, 0) if oldest != NOT_GENERATED else 0


def _can_leave_in_time(staleness: Iterable[int], n: int, max_staleness: int) -> bool:
    """Whether groups of these ages fit into the following batches of n, none of them after its deadline.

    A group of age s may wait max_staleness - s more batches; of all that may wait at most w, at most w * n can leave.
    """
    waits = max_staleness - np.fromiter(staleness, np.int64)
    if not waits.size:
        return True
    if waits.min() < 1:
        return False
    waiting = np.cumsum(np.bincount(waits, minlength=max_staleness + 1))
    return bool((waiting <= np.arange(len(waiting)) * n).all())
