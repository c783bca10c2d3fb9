"""What ends a run for good."""

from __future__ import annotations

from rlscale.config.errors import UserError
from rlscale.run.processes.reaper import RAY_DIED


class RunFailed(UserError):
    """A part of the run failed for good; the message says which, and where its log is."""


class RayDied(RunFailed):
    """Ray itself is dead on this machine: nothing can be called or started from here any more."""

    def __init__(self) -> None:
        super().__init__(RAY_DIED)
