"""Memory that a process on the CPU has freed and keeps for later, and when it gives that back to the system."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from rlscale.platform.device import Platform

_SPARE_SHARE = 0.25
"""Share of the host's memory that is to be left for other processes (engines, above all)."""
KEPT_S = 300.0
"""For so long it is kept at most, where others have enough."""


class FreedMemory:
    """Taking memory again costs page faults in the next step, so it is kept as long as nobody needs it.

    But not for ever: what is in use comes to lie further and further apart, between more and more that is free, and
    the process would grow for hours. Given back from time to time it does not, and the faults count for nothing then.
    """

    def __init__(self, platform: Platform, clock: Callable[[], float] = time.monotonic) -> None:
        self._platform, self._clock = platform, clock
        self._since = clock()

    def spare(self) -> None:
        """Give it back where little is left for others, or it has been kept for long; on the CPU."""
        if self._platform.is_cuda:
            return
        memory = psutil.virtual_memory()
        if memory.available < _SPARE_SHARE * memory.total or self._clock() - self._since > KEPT_S:
            self._platform.empty_cache()
            self._since = self._clock()
