"""After which iterations a checkpoint is due: every so many, every so many seconds, and when somebody asks for one."""

from __future__ import annotations

import time
from collections.abc import Callable

from rlscale.config.schema.checkpoint_config import CheckpointConfig
from rlscale.run.processes.stop_signal import StopSignal


class SaveSchedule:
    """What `checkpoint.every`, `checkpoint.every_s` and SIGUSR1 come to. The seconds run since the last save began."""

    def __init__(self, config: CheckpointConfig, stop: StopSignal, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._every_s, self._stop, self._clock = config.every, config.every_s, stop, clock
        self._began = clock()

    def due(self, iteration: int) -> bool:
        """Whether a checkpoint is due after this iteration."""
        by_count = self._every > 0 and iteration % self._every == 0
        by_time = self._every_s is not None and self._clock() - self._began >= self._every_s
        return by_count or by_time or self._stop.save_requested

    def begun(self) -> None:
        """A save begins: what is asked for from now on wants another one."""
        self._began, self._stop.save_requested = self._clock(), False
