"""A router on another machine than the driver's: it listens there alone, and hears of engines by its launcher."""

from __future__ import annotations

from typing import Any

from rlscale.config.schema.engine_group_config import Role
from rlscale.run.processes.actor_host import ActorHost
from rlscale.serve.http import CallError

_ANSWERS_S = 150.0
"""How long the launcher may take, which itself waits for the router: for its answer and, as long, for what follows."""


class RouterElsewhere:
    """In the place of a `RouterClient`, with the same errors."""

    def __init__(self, host: ActorHost, launcher: Any, url: str) -> None:
        """`launcher`: of the router's machine."""
        self._host, self._launcher, self._url = host, launcher, url

    def add(self, url: str, role: Role = Role.regular) -> None:
        """Make the engine at `url` a worker; returns once the router sends it requests."""
        self._tell("add_worker", url, role)

    def remove(self, url: str) -> None:
        """Send the engine at `url` nothing more."""
        self._tell("remove_worker", url)

    def _tell(self, method: str, *given: Any) -> None:
        told = self._launcher.call.remote(method, self._url, *given)
        done, _ = self._host.wait([told], _ANSWERS_S)
        if not done:
            raise CallError(f"{self._url}: its launcher did not answer within {_ANSWERS_S:g} s")
        self._host.get(told)
