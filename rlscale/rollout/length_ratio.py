"""Whether short answers are preferred: how long what is trained on is, over how long what was started will be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlscale.data.sample import Group
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.ledger import generated_tokens

LENGTH_RATIO = "length_ratio"
"""Name of the metric."""
UNBIASED = (0.9, 1.1)
"""Ratios that are no reason to worry."""
_BATCHES = 10
"""Batches over which both means go."""


class LengthRatio:
    """Mean length of trained samples over that of started ones, both of the last ten batches' worth.

    Of a sample that is not finished it is known that it is longer than what there is of it. The mean of the started
    ones therefore comes from the survival curve of their lengths (Kaplan and Meier 1958): unfinished ones are
    neither left out, which would make it too short, nor taken for as short as they are by now.
    """

    def __init__(self, samples_per_batch: int) -> None:
        self._started: deque[Attempt | tuple[int, bool]] = deque(maxlen=_BATCHES * samples_per_batch)
        self._trained: deque[int] = deque(maxlen=_BATCHES * samples_per_batch)

    def started(self, attempt: Attempt) -> None:
        """A sample was started."""
        self._started.append(attempt)

    def trained(self, groups: Iterable[Group]) -> None:
        """Groups are trained on."""
        self._trained.extend(generated_tokens(sample) for group in groups for sample in group.samples)

    def measure(self) -> dict[str, float]:
        """`trained_length`, `started_length` and `length_ratio`; nothing before the first batch."""
        lengths = self._lengths()
        started = mean_length([length for length, _ in lengths], [finished for _, finished in lengths])
        if not self._trained or not started:
            return {}
        trained = float(np.mean(self._trained))
        return {"trained_length": trained, "started_length": started, LENGTH_RATIO: trained / started}

    def state_dict(self) -> dict[str, Any]:
        """Lengths only: an attempt that is under way counts from its new start after a restart."""
        return {"started": [one for one in self._lengths() if one[1]], "trained": list(self._trained)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved lengths."""
        self._started.extend(state["started"])
        self._trained.extend(state["trained"])

    def _lengths(self) -> list[tuple[int, bool]]:
        return [one if isinstance(one, tuple) else (one.tokens, one.finished) for one in self._started]


def mean_length(lengths: Sequence[int], finished: Sequence[bool]) -> float:
    """Mean by the survival curve of lengths of which some are only known to be longer; 0 without any.

    Where the longest is not finished it counts as if it were.
    """
    if not lengths:
        return 0.0
    found, ends = np.asarray(lengths), np.asarray(finished, bool)
    order = np.lexsort((~ends, found))  # by length; of the same length those that ended first
    sorted_lengths, ended = found[order], ends[order]
    at_risk = np.arange(len(order), 0, -1)
    survival = np.concatenate([[1.0], np.cumprod(1 - ended / at_risk)[:-1]])
    return float((np.diff(sorted_lengths, prepend=0) * survival).sum())
