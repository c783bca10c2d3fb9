"""Machines of Ray's cluster that a run does not use, also such as join meanwhile: engines are started there.

They join the run as any by its URL, are lost as those are, and end with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device
from rlscale.run.processes.placement import Slot
from rlscale.run.sides.engine_specs import engine_specs
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.launchers import Supervised, end_launchers, start_launcher

_NOBODYS = ""


@dataclass
class _Engine:
    """One that is starting, or has started, on such a machine."""

    name: str
    node: str
    launcher: Any
    starting: Any
    url: str = ""


class SpareMachines:
    """Those that have the GPUs of a machine of the run. One on which an engine did not start, or left, is let alone."""

    def __init__(self, engines: Engines, note: Callable[[str], None]) -> None:
        self._engines, self._note = engines, note
        self._tried: set[str] = set()
        self._launchers: dict[str, Any] = {}
        self._started: list[_Engine] = []

    @property
    def urls(self) -> set[str]:
        """Addresses of the engines that are there."""
        return {one.url for one in self._started if one.url}

    def look(self) -> Iterator[str]:
        """Start engines where that is possible; addresses of those that are ready by now, to be taken in."""
        fleet = self._engines
        for node in fleet.calls.host.present(fleet.config.cluster.gpus_per_node):
            if node not in self._tried and node not in fleet.nodes and (room := self._room()) > 0:
                self._tried.add(node)
                self._begin(node, room)
        for one in [one for one in self._started if not one.url]:
            if fleet.calls.host.wait([one.starting], 0.0)[0]:
                yield from self._ready(one)

    def lost(self, url: str) -> bool:
        """An engine does not belong to the run, or does not any more: it ends, and its machine's launcher with it.

        Whether it was one of these.
        """
        found = [one for one in self._started if one.url == url]
        for one in found:
            self._started.remove(one)
            if all(other.node != one.node for other in self._started):
                end_launchers(self._engines.calls, [self._launchers.pop(one.node)])
                nodes = self._engines.nodes
                nodes[nodes.index(one.node)] = _NOBODYS  # others keep their numbers
            else:
                one.launcher.call.remote("forget", one.name)
        return bool(found)

    def close(self) -> None:
        """End all that was started."""
        end_launchers(self._engines.calls, self._launchers.values())
        self._launchers, self._started = {}, []

    def _room(self) -> int:
        """How many engines may be added."""
        most = self._engines.config.rollout.engines_at_most
        waiting = sum(not one.url for one in self._started)
        return 0 if most is None else most - len(self._engines.urls) - waiting

    def _begin(self, node: str, room: int) -> None:
        """Start as many engines on that machine as fit, and as may be."""
        fleet, config, number = self._engines, self._engines.config, len(self._engines.nodes)
        fleet.nodes.append(node)  # so that lost ranks do not come back there
        forks = fleet.forks.engines if fleet.calls.host.is_here(node) else None
        servers = Supervised(fleet.logs, fleet.scratch, fleet.api_key, forks, frozenset())
        launcher = self._launchers[node] = start_launcher(fleet.calls, config, number, node, servers)
        size = config.rollout.gpus_per_engine if config.cluster.device is Device.cuda else 0
        count = min(room, config.cluster.gpus_per_node // size if size else 1)
        slots = [Slot(number, tuple(range(at * size, (at + 1) * size))) for at in range(count)]
        for place, spec in enumerate(engine_specs(config, slots, str(fleet.started_from))):
            named = dataclasses.replace(spec, name=f"engine-{number}-{place}")
            self._started.append(_Engine(named.name, node, launcher, launcher.call.remote("start_engine", named)))
        self._note(f"Ray has a machine that is not in use: starting {count} engine{'s' if count > 1 else ''} there")

    def _ready(self, one: _Engine) -> Iterator[str]:
        try:
            one.url = self._engines.calls.one(one.starting, f"start of {one.name}")
            yield one.url
        except UserError as error:
            self._note(f"{one.name} did not start on the machine that is not in use ({str(error).splitlines()[0]})")
            one.url = one.name  # nobody's address
            self.lost(one.url)
