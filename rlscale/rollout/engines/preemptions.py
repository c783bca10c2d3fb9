"""Requests that had to leave an engine's batch because its cache was full, as their answers tell it.

An engine's report of its load has a field for them, which SGLang fills only where it exports metrics. A router hides
which engine an answer came from, so they are counted for all engines together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_REMEMBERED = 4096
"""Preempted requests that nobody has asked for: more say no more."""


def preemptions_of(meta: Mapping[str, Any], versions: NDArray[np.int32]) -> int:
    """How often a request was preempted at least, from its answer's `meta_info` and the version of each token.

    SGLang also counts a pause for new weights that took the request out of the batch: at most one for each version that
    came while it generated.
    """
    syncs = int(versions[-1]) - int(versions[0]) if len(versions) else 0
    return max(int(meta.get("num_retractions") or 0) - syncs, 0)


class Preemptions:
    """Counts the requests that were preempted, and remembers when they began until somebody takes them."""

    def __init__(self) -> None:
        self.requests = 0
        """How many there were so far."""
        self._began: deque[float] = deque(maxlen=_REMEMBERED)

    def answered(self, began: float, meta: Mapping[str, Any], versions: NDArray[np.int32]) -> None:
        """A request that was sent at `began` (the event loop's seconds) has its answer."""
        if preemptions_of(meta, versions):
            self.requests += 1
            self._began.append(began)

    def take(self, since: float) -> int:
        """Of the preempted requests answered since the last call: how many began at `since` or later."""
        found = sum(began >= since for began in self._began)
        self._began.clear()
        return found
