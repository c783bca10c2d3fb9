"""A router on another machine than the driver's: it listens there alone, and hears of engines by its launcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlscale.config.schema.engine_group_config import Role
from rlscale.run.processes.actor_host import ActorHost
from rlscale.serve.http import CallError

_LOOK_EVERY_S = 0.2
_ANSWERS_S = 150.0
"""How long the launcher may take, which itself waits for the router: for its answer and, as long, for what follows."""


class RouterElsewhere:
    """In the place of a `RouterClient`, with the same errors."""

    def __init__(self, host: ActorHost, launcher: Any, url: str) -> None:
        """`launcher`: of the router's machine."""
        self._host, self._launcher, self._url = host, launcher, url

    def add(self, url: str, role: Role = Role.regular, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Make the engine at `url` a worker; returns once the router sends it requests.

        `meanwhile` runs between two looks, and may raise.
        """
        self._tell("add_worker", url, role, meanwhile=meanwhile)

    def remove(self, url: str) -> None:
        """Send the engine at `url` nothing more."""
        self._tell("remove_worker", url)

    def _tell(self, method: str, *given: Any, meanwhile: Callable[[], None] = lambda: None) -> None:
        told = self._launcher.call.remote(method, self._url, *given)
        deadline = self._host.clock() + _ANSWERS_S
        while not self._host.wait([told], _LOOK_EVERY_S)[0]:
            meanwhile()
            if self._host.clock() > deadline:
                raise CallError(f"{self._url}: its launcher did not answer within {_ANSWERS_S:g} s")
        self._host.get(told)
