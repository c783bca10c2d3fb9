"""What the driver knows of one engine, and of a server that is down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlscale.config.schema.engine_group_config import Role
from rlscale.serve.server_spec import ServerSpec


@dataclass
class Engine:
    """One engine of the run."""

    spec: ServerSpec | None  # None: somebody else started it
    launcher: Any
    url: str = ""
    starting: Any = None
    released: set[str] = field(default_factory=set)  # the tags of memory that it gave up
    restarts: int = 0
    """How often it was started again."""
    away: bool = False
    """Whether it was taken from the router to be started again, and has not come back to it."""

    @property
    def role(self) -> Role:
        """What it does with a request."""
        return Role.regular if self.spec is None else self.spec.role

    def is_back(self, url: str) -> None:
        """It was started again, in a new process that has all of its memory."""
        self.url = url
        self.restarts += 1
        self.released.clear()


@dataclass(frozen=True)
class Down:
    """A server that has to be started again."""

    launcher: Any
    name: str
    why: str
    """What it did: "died", or for how long it has not answered."""
