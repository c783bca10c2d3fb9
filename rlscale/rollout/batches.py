"""Finished groups on their way to the trainer: which of them a batch takes, and what of it the loss leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlscale.config.schema.rollout_config import RolloutConfig, Stale
from rlscale.data.batches.fields import APPROXIMATE, RELATIVE_TEMPERATURE
from rlscale.data.buffer import GroupBuffer
from rlscale.data.sample import Group, Prompt
from rlscale.rollout.ledger import Ledger, tokens_of
from rlscale.rollout.refill import Refill
from rlscale.rollout.stale_tokens import fill_up, leave_out, staleness_of


class Batches:
    """Takes in finished groups and hands out batches that keep the staleness bound, as `rollout.stale` says.

    What becomes of a group here is written down in the ledger. `count` batches were handed out in the whole run;
    `taken` is whether that of the present weight version is one of them.
    """

    def __init__(self, rollout: RolloutConfig, buffer: GroupBuffer, refill: Refill, ledger: Ledger) -> None:
        self._bound, self._stale = rollout.max_staleness, rollout.stale
        self._size = rollout.groups_per_iteration
        self._buffer, self._refill, self._ledger = buffer, refill, ledger
        self._tokens: dict[int, int] = {}  # by prompt, of the groups here: counting is slow where many wait
        self._last: list[Group] = []
        self._masked: list[int] = []  # tokens of each group of the last batch that the loss leaves out
        self._version = -1  # of the last batch
        self.count = 0
        self.taken = False

    @property
    def ready(self) -> int:
        """Groups that a batch may take."""
        return len(self._buffer)

    def put(self, group: Group) -> bool:
        """Take in a finished group, or set it aside; whether it passed the filters. UserError if nothing ever does."""
        kept = self._refill.admit(group)
        self._tokens[group.prompt.index] = tokens_of(group)
        if kept is not None:
            self._buffer.put(kept)
        return kept is group

    def expire(self, version: int) -> list[Prompt]:
        """Give up what came too late for the trainer of `version`; returns the prompts to generate again.

        With `drop` that is how the bound is kept. Otherwise it happens only after a restart with a smaller bound, or
        when an engine holds older weights than it should: the prompts get their batch.
        """
        if self._masks:
            return []
        late = self._buffer.expire(version, self._bound)
        for group in late:
            del self._tokens[group.prompt.index]
            if self._stale is Stale.drop:
                self._ledger.stale(group)
            else:
                self._ledger.discarded(tokens_of(group), "stale")
        return [] if self._stale is Stale.drop else [group.prompt for group in late]

    def take(self, version: int, in_flight: Callable[[], Sequence[int]]) -> list[Group]:
        """The next batch, ordered by prompt index; empty while there are too few groups, or others would come too late.

        `in_flight` gives the oldest versions of the groups that are not finished.
        """
        if len(self._buffer) < self._size:
            return []
        if self._masks:  # nothing has to leave by any time: what is over the bound by then is left out of the loss
            groups = self._buffer.take(self._size, version, version + len(self._buffer) + 1)
        else:
            waits = () if self._stale is Stale.drop else in_flight()
            groups = self._buffer.take(self._size, version, self._bound, waits)
        if groups:
            self._hand_out(groups, version)
        return groups

    @property
    def _masks(self) -> bool:
        return self._bound > 0 and self._stale in (Stale.mask, Stale.withhold)

    def _hand_out(self, groups: list[Group], version: int) -> None:
        self.taken = True
        self.count += 1
        self._last, self._version = groups, version
        self._masked = leave_out(groups, version, self._bound, self._stale)
        fill_up(groups, APPROXIMATE)
        fill_up(groups, RELATIVE_TEMPERATURE.name)
        for group, masked in zip(groups, self._masked, strict=True):
            del self._tokens[group.prompt.index]
            self._ledger.trained(group, masked)
        for group, reason in self._refill.settle():
            del self._tokens[group.prompt.index]
            self._ledger.filtered(group, reason)

    def measures(self) -> dict[str, float]:
        """Of the last batch: how many of its tokens have which staleness."""
        if not self._last:
            return {}
        ages = staleness_of(self._last, self._version)
        return {f"staleness_tokens/{age}": float(number) for age, number in enumerate(ages)}

    def held(self) -> tuple[int, int]:
        """Groups here, and their tokens, as they were counted when the groups came."""
        return len(self._tokens), sum(self._tokens.values())

    def counted(self) -> tuple[int, int]:
        """The same, counted anew."""
        groups = [*self._buffer.state_dict()["groups"], *self._refill.aside]
        return len(groups), sum(map(tokens_of, groups))

    def state_dict(self, trained: bool, ledger: Ledger) -> dict[str, Any]:
        """All that is here. Where the last batch was not `trained` on it is put back, and taken out of `ledger`."""
        buffer, count = self._buffer.state_dict(), self.count
        if not trained and self.taken:
            buffer["groups"] = self._last + buffer["groups"]
            count -= 1
            for group, masked in zip(self._last, self._masked, strict=True):
                ledger.untrained(group, masked)
        return {"buffer": buffer, "refill": self._refill.state_dict(), "batches": count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what was held when the state was saved."""
        self._buffer.load_state_dict(state["buffer"])
        self._refill.load_state_dict(state["refill"])
        self.count = int(state["batches"])
        groups = [*state["buffer"]["groups"], *self._refill.aside]
        self._tokens = {group.prompt.index: tokens_of(group) for group in groups}
