"""A group that is being generated."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from rlscale.data.sample import Prompt


@dataclass
class PendingGroup:
    """The prompt, the task that generates its group, and the oldest weight version that one of its requests met."""

    prompt: Prompt
    task: asyncio.Task[None] = field(init=False)
    _oldest: int | None = None

    def enter(self, version: int) -> int:
        """Note that a request enters the engine under `version`, which is also returned."""
        self._oldest = version if self._oldest is None else min(self._oldest, version)
        return version

    def oldest_version(self, current: int) -> int:
        """The oldest version that met one of its requests; the current one if none was sent yet."""
        return current if self._oldest is None else self._oldest
