"""Whether short answers are preferred: how long what is trained on is, over how long what was started will be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlscale.data.sample import Group, Sample
from rlscale.rollout.attempt import Attempt

LENGTH_RATIO = "length_ratio"
"""Name of the metric."""
UNBIASED = (0.9, 1.1)
"""Ratios that are no reason to worry."""
_BATCHES = 10
"""Batches over which both means go."""


class LengthRatio:
    """Mean length of the samples trained last over that of as many started ones, of ten batches' worth each.

    The started ones are those that would have been trained if all took equally long: as many as are held at present,
    under way or ready, were started after them. So both means are of the same samples but for those that others have
    overtaken, and differ by what overtaking does, not by which prompts were easy lately.

    Of a sample that is not finished it is known that it is longer than what there is of it. The mean of the started
    ones therefore comes from the survival curve of their lengths (Kaplan and Meier 1958): unfinished ones are
    neither left out, which would make it too short, nor taken for as short as they are by now.
    """

    def __init__(self, samples_per_batch: int) -> None:
        self._window = _BATCHES * samples_per_batch
        self._started: deque[Attempt | int] = deque()
        """Of what another process has started, only the length is left: it is finished."""
        self._trained: deque[int] = deque(maxlen=self._window)

    def started(self, attempt: Attempt) -> None:
        """A sample was started."""
        self._started.append(attempt)

    def adopted(self, samples: Iterable[Sample]) -> None:
        """Samples that another process has started and finished."""
        self._started.extend(sample.response_length for sample in samples)

    def trained(self, groups: Iterable[Group], held: int) -> None:
        """Groups are trained on; `held` other samples that were started are under way or ready."""
        self._trained.extend(sample.response_length for group in groups for sample in group.samples)
        while len(self._started) > self._window + held:
            self._started.popleft()

    def measure(self, held: int) -> dict[str, float]:
        """`trained_length`, `started_length` and `length_ratio`; nothing before the first batch. `held` as above."""
        end = max(len(self._started) - held, 0)
        lengths = self._lengths()[max(end - self._window, 0) : end]
        started = mean_length([length for length, _ in lengths], [finished for _, finished in lengths])
        if not self._trained or not started:
            return {}
        trained = float(np.mean(self._trained))
        return {"trained_length": trained, "started_length": started, LENGTH_RATIO: trained / started}

    def state_dict(self) -> dict[str, Any]:
        """Lengths only: an attempt that is under way counts from its new start after a restart."""
        # Plain numbers: a tuple for each would have Python look for garbage while it saves, once there are many.
        lengths = (one if isinstance(one, int) else one.tokens if one.finished else None for one in self._started)
        return {"started": [length for length in lengths if length is not None], "trained": list(self._trained)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved lengths."""
        # Of a checkpoint from before they were plain numbers: pairs of a length and that it is finished.
        self._started.extend(one[0] if isinstance(one, tuple) else one for one in state["started"])
        self._trained.extend(state["trained"])

    def _lengths(self) -> list[tuple[int, bool]]:
        return [(one, True) if isinstance(one, int) else (one.tokens, one.finished) for one in self._started]


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
