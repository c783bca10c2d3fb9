"""What the process of the rollout knows of the models of `rollout.models`: where they are, and how busy."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from rlscale.envs.served_models import Address, AddressBook
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.engine_loads import EngineLoad, EngineLoads

_PATIENCE_S = 10.0


class ModelsTold:
    """Writes down where a model is, for rewards and environments, and asks its engines for their load."""

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        """`folder`: where the addresses are written (AddressBook). Models of these names may be asked for from now on.

        Their addresses come later, by `tell`.
        """
        self._book = AddressBook(folder, names)
        self._clients: dict[str, EngineClient] = {}
        self._loads: dict[str, EngineLoads] = {}
        self._asking: list[asyncio.Task[None]] = []  # the loop alone would let go of them

    def tell(self, name: str, address: Address) -> None:
        """The model is there from now on. On the event loop."""
        self._book.tell(name, address)
        if name in self._clients:
            self._clients[name].redirect(address.base_url)
            return
        client = EngineClient(address.base_url, address.api_key, _PATIENCE_S, retries=0)
        self._clients[name], self._loads[name] = client, EngineLoads(client)
        self._asking.append(asyncio.create_task(self._loads[name].run(), name=f"loads of {name}"))

    def loads(self) -> dict[str, EngineLoad]:
        """By name, what all engines of a model together had to do since the last call; `usage` is their mean."""
        return {name: _total(list(found.values())) for name, one in self._loads.items() if (found := one.take())}


def _total(loads: list[EngineLoad]) -> EngineLoad:
    return EngineLoad(
        running=sum(load.running for load in loads),
        waiting=sum(load.waiting for load in loads),
        usage=sum(load.usage for load in loads) / len(loads),
    )
