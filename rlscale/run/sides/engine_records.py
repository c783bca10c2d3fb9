"""What the driver knows of one engine, and of a server that is down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlscale.serve.server_spec import ServerSpec


@dataclass
class Engine:
    """One engine of the run."""

    spec: ServerSpec | None  # None: somebody else started it
    launcher: Any
    url: str = ""
    starting: Any = None
    released: set[str] = field(default_factory=set)  # the tags of memory that it gave up


@dataclass(frozen=True)
class Down:
    """A server that has to be started again."""

    launcher: Any
    name: str
    why: str
    """What it did: "died", or for how long it has not answered."""
