"""Rows that cannot be used: counted, the first few kept with file and line, refused past a share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rlscale.config.errors import ConfigError, UserError

UNSEEN_RATE = 0.01
"""Share of bad rows that `max_bad_rate=null` allows of rows that nobody could look at before the run."""
_SHOWN = 5


class BadPrompt(UserError):
    """One prompt or label cannot be used: where it is, and what is wrong with it."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where} {self.reason}"


@dataclass
class BadRows:
    """The bad ones of `total` rows of a section's data (`key`: data, eval.data)."""

    key: str
    total: int
    count: int = 0
    reasons: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The first few reasons, each with where it was met first and how often."""

    def add(self, where: str, reason: str) -> None:
        """One more: where it is, and what is wrong with it."""
        self.count += 1
        if reason in self.reasons:
            first, count = self.reasons[reason]
            self.reasons[reason] = first, count + 1
        elif len(self.reasons) < _SHOWN:
            self.reasons[reason] = where, 1

    def refuse_past(self, rate: float | None) -> None:
        """ConfigError that lists them if they are more than this share of the rows; null allows none."""
        if self.count > (rate or 0.0) * self.total:
            raise ConfigError(self._lines(rate))

    def note(self) -> str:
        """One line that says how many are left out, and the first."""
        return f"{self.key}: {self._said()}, left out; the first: {self._listed()[0]}"

    def _lines(self, rate: float | None) -> list[str]:
        if self.count == self.total == 1:
            return self._listed()
        share = self.count / self.total
        allowed = f", more than {self.key}.max_bad_rate={rate:g}" if rate else ""
        them = "it" if self.count == 1 else "them"
        how = f"fix {them}"
        if share < 1:
            how += f", or leave {them} out with {self.key}.max_bad_rate={_rounded_up(share)}"
        return [*self._listed(), f"{self.key}: {self._said()}{allowed}; {how}"]

    def _said(self) -> str:
        return f"{self.count:,} of {self.total:,} rows {'is' if self.count == 1 else 'are'} bad"

    def _listed(self) -> list[str]:
        return [
            f"{where} {reason}" + (f" (and {count - 1:,} more like it)" if count > 1 else "")
            for reason, (where, count) in self.reasons.items()
        ]


def _rounded_up(share: float) -> str:
    """The share in two figures, not below it."""
    unit = 10.0 ** (math.floor(math.log10(share)) - 1)
    return f"{math.ceil(share / unit * (1 - 1e-12)) * unit:.2g}"
