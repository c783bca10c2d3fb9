"""Counting failures, and stopping the run when there are too many."""

from __future__ import annotations

import logging
from collections import deque

from rlscale.config.errors import UserError

logger = logging.getLogger(__name__)

_LOGGED = 20
"""Failures of one kind that are written to the log; the run counts the others."""


class FailureRate:
    """The share of failures among the last `window` outcomes, held against the bound that `key` sets.

    While fewer than `window` outcomes are known, the missing ones count as good: a single failure at the start stops
    nothing.
    """

    def __init__(self, what: str, key: str, bound: float, window: int) -> None:
        self._what = what
        self._key = key
        self._bound = bound
        self._window = window
        self._recent: deque[bool] = deque(maxlen=window)
        self._failed_recently = 0
        self.total = 0

    def success(self) -> None:
        """Note a good outcome."""
        self._note(False)

    def failure(self, reason: str) -> None:
        """Note a failure. UserError, with `reason` as the example, if that makes too many."""
        self.total += 1
        if self.total <= _LOGGED:
            logger.warning("one of the %s failed: %s", self._what, reason)
        self._note(True)
        if self._failed_recently > self._bound * self._window:
            raise UserError(
                f"{self._failed_recently} of the last {len(self._recent)} {self._what} failed, which is more than "
                f"{self._key}={self._bound:g} of {self._window} allows; the last one: {reason}"
            )

    def _note(self, failed: bool) -> None:
        if len(self._recent) == self._window:
            self._failed_recently -= self._recent[0]
        self._recent.append(failed)
        self._failed_recently += failed
