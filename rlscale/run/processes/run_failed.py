"""What ends a run for good."""

from __future__ import annotations

from rlscale.config.errors import UserError


class RunFailed(UserError):
    """A part of the run failed for good; the message says which, and where its log is."""


class RayDied(RunFailed):
    """Ray itself is dead on this machine: nothing can be called or started from here any more."""

    def __init__(self) -> None:
        super().__init__(
            "Ray's own process on this machine (its raylet) has died, and with it those of the run; "
            "the same command resumes the run"
        )
