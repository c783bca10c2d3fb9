"""Replacing finished groups that a filter rejects (as in DAPO's dynamic sampling, arXiv 2503.14476, section 3.2)."""

from __future__ import annotations

import heapq
import math
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import RefillConfig
from rlscale.data.sample import Group
from rlscale.rollout.filters import Filter, keep_all, reason_of, varied_rewards

FRUITLESS_BATCHES = 10
"""Batches in a row for which a filter let nothing pass, past which there is no point in going on."""


class Refill:
    """Rejected groups, set aside while others are generated in their place.

    For each batch up to `most` groups are set aside, and dropped when it has left. One more than that is like any good
    group: so every batch gets complete, and costs at most `most` groups more than it holds.

    On-policy the batch is filled up with the rejected groups of lowest prompt index, in whatever order they are
    finished, because those set aside are always the highest so far. Off-policy they are the oldest: a group that goes
    to the buffer takes the place of one that is as old or older, which keeps what the buffer has planned.
    """

    def __init__(self, keep: Filter, most: int, patience: int | None = None, equal_too: bool = False) -> None:
        """`patience`: groups rejected in a row past which `admit` raises; `equal_too`: reject equal rewards as well."""
        self._keep = keep
        self._most = most
        self._patience = patience
        self._equal_too = equal_too
        self._in_a_row = 0
        self._reasons: dict[int, str] = {}  # by prompt, of the groups set aside
        self._aside: list[tuple[int, int, Group]] = []  # a heap: youngest tokens first, then lowest prompt index
        self.dropped = 0

    @staticmethod
    def of(config: RefillConfig, groups_per_iteration: int, keep: Filter = keep_all, ahead: int = 0) -> Refill:
        """The one of `algo.refill`, for groups that `keep` does not keep, either; `ahead` batches are generated early.

        Those are not counted among the batches for which nothing passed: none of them has left yet.
        """
        most = math.ceil(config.max_dropped * groups_per_iteration - 1e-9)  # 1.1 * 10 is 11
        of_a_batch = groups_per_iteration + min(most, 2 * groups_per_iteration)
        patience = FRUITLESS_BATCHES * of_a_batch + ahead * groups_per_iteration
        return Refill(keep, most, patience, config.drop_equal)

    def admit(self, group: Group) -> Group | None:
        """The group to keep, given one that was finished: itself, or one that was set aside before, or none yet.

        UserError where so many were rejected in a row that nothing will ever pass.
        """
        reason = self.why_not(group)
        if reason is None:
            self._in_a_row = 0
            return group
        self._in_a_row += 1
        if self._patience is not None and self._in_a_row > self._patience:
            raise self._nothing_passes(group, reason)
        self._reasons[group.prompt.index] = reason
        if len(self._aside) < self._most:
            heapq.heappush(self._aside, _ranked(group))
            return None
        kept = heapq.heappushpop(self._aside, _ranked(group))[2]
        del self._reasons[kept.prompt.index]
        return kept

    def why_not(self, group: Group) -> str | None:
        """Why a group is rejected; None if it is not. Asked once for each, when it is finished."""
        if self._equal_too and not varied_rewards(group):
            return reason_of(varied_rewards)
        return None if self._keep(group) else reason_of(self._keep)

    def settle(self) -> list[tuple[Group, str]]:
        """The batch has left: drop, count and return what was replaced for it, with the reasons."""
        gone = [(group, self._reasons.pop(group.prompt.index)) for _, _, group in sorted(self._aside)]
        self.dropped += len(gone)
        self._aside.clear()
        return gone

    @property
    def aside(self) -> list[Group]:
        """The groups set aside."""
        return [group for _, _, group in self._aside]

    def _nothing_passes(self, group: Group, reason: str) -> UserError:
        rewards = ", ".join(f"{reward:g}" for reward in group.rewards[:8])
        return UserError(
            f"the filter rejected {self._in_a_row} groups in a row, of {FRUITLESS_BATCHES} batches; the last one "
            f"by {reason} (prompt {group.prompt.index}, rewards {rewards}, lengths "
            f"{[sample.response_length for sample in group.samples[:8]]}); look at the reward and at how hard the "
            "prompts are, or choose another rollout/filter or algo.refill.drop_equal=false"
        )

    def state_dict(self) -> dict[str, Any]:
        """The groups set aside, with their samples, and the counter."""
        groups = [group for _, _, group in sorted(self._aside)]
        return {"groups": groups, "reasons": dict(self._reasons), "in_a_row": self._in_a_row, "dropped": self.dropped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what was held when the state was saved."""
        self._aside = [_ranked(group) for group in state["groups"]]
        heapq.heapify(self._aside)
        self._reasons, self._in_a_row = dict(state["reasons"]), int(state["in_a_row"])
        self.dropped = int(state["dropped"])


def _ranked(group: Group) -> tuple[int, int, Group]:
    return -group.min_version, group.prompt.index, group
