"""Machines of Ray's cluster that a run does not use, also such as join meanwhile: engines are started there.

They join the run as any by its URL, are lost as those are, and end with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rlscale.config.errors import UserError, first_line
from rlscale.config.schema.cluster_config import Device
from rlscale.run.processes.placement import Slot
from rlscale.run.sides.engine_specs import engine_specs
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.launchers import Supervised, end_launchers, start_launcher
from rlscale.run.sides.spare_launcher import SpareLauncher

_NOBODYS = ""
_SAYS_ITSELF_S = 10.0
"""How much later than its own deadline an engine is given up that has not said that it did not start."""


@dataclass
class _Engine:
    """One that is starting, or has started, on such a machine."""

    name: str
    launcher: SpareLauncher
    starting: Any
    url: str = ""


class SpareMachines:
    """Those that have the GPUs of a machine of the run. One on which an engine did not start, or left, is let alone.

    Nothing here waits for another machine: the driver looks after everything else as well.
    """

    def __init__(self, engines: Engines, note: Callable[[str], None]) -> None:
        self._engines, self._note = engines, note
        self._tried: set[str] = set()
        self._launchers: list[SpareLauncher] = []
        self._ending: list[SpareLauncher] = []
        self._started: list[_Engine] = []

    @property
    def urls(self) -> set[str]:
        """Addresses of the engines that are there."""
        return {one.url for one in self._started if one.url}

    def look(self) -> Iterator[str]:
        """Start engines where that is possible; addresses of those that are ready by now, to be taken in."""
        fleet = self._engines
        self._end_launchers()
        for node in fleet.calls.host.present(fleet.config.cluster.gpus_per_node):
            if node not in self._tried and node not in fleet.nodes and (room := self._room()) > 0:
                if self._ranks_lack_one():
                    break
                self._tried.add(node)
                self._begin(node, room)
        for one in [one for one in self._started if not one.url]:
            if fleet.calls.host.wait([one.starting], 0.0)[0]:
                yield from self._ready(one)
        for launcher in list(self._launchers):
            self._give_up_late(launcher)

    def lost(self, url: str) -> bool:
        """An engine does not belong to the run, or does not any more: it ends, and its machine's launcher with it.

        Whether it was one of these. Nobody waits for its end.
        """
        found = [one for one in self._started if one.url == url]
        for one in found:
            self._drop(one)
        return bool(found)

    def close(self) -> None:
        """End all that was started. A launcher that is not up yet is told nothing, as it would not answer."""
        launchers = [*self._launchers, *self._ending]
        up = [one for one in launchers if one.up]
        for one in launchers:
            if one not in up:
                one.end()
        end_launchers(self._engines.calls, [one.handle for one in up])
        self._launchers, self._ending, self._started = [], [], []

    def _room(self) -> int:
        """How many engines may be added."""
        most = self._engines.config.rollout.engines_at_most
        waiting = sum(not one.url for one in self._started)
        return 0 if most is None else most - len(self._engines.urls) - waiting

    def _ranks_lack_one(self) -> bool:
        """Whether a machine of the trainer's ranks is gone: the next one that joins is theirs."""
        fleet = self._engines
        theirs = {slot.node for slot in fleet.layout.ranks}
        return bool(fleet.calls.host.gone([fleet.nodes[number] for number in theirs]))

    def _begin(self, node: str, room: int) -> None:
        """Start as many engines on that machine as fit, and as may be."""
        fleet, config, number = self._engines, self._engines.config, len(self._engines.nodes)
        fleet.nodes.append(node)  # so that lost ranks do not come back there
        forks = fleet.forks.engines if fleet.calls.host.is_here(node) else None
        servers = Supervised(fleet.logs, fleet.scratch, fleet.api_key, forks, frozenset())
        handle = start_launcher(fleet.calls, config, number, node, servers)
        launcher = SpareLauncher(fleet.calls, handle, node)
        self._launchers.append(launcher)
        size = config.rollout.gpus_per_engine if config.cluster.device is Device.cuda else 0
        count = min(room, config.cluster.gpus_per_node // size if size else 1)
        slots = [Slot(number, tuple(range(at * size, (at + 1) * size))) for at in range(count)]
        for place, spec in enumerate(engine_specs(config, slots, str(fleet.started_from))):
            named = dataclasses.replace(spec, name=f"engine-{number}-{place}")
            self._started.append(_Engine(named.name, launcher, handle.call.remote("start_engine", named)))
        self._note(f"Ray has a machine that is not in use: starting {count} engine{'s' if count > 1 else ''} there")

    def _ready(self, one: _Engine) -> Iterator[str]:
        try:
            one.url = self._engines.calls.one(one.starting, f"start of {one.name}")
            yield one.url
        except UserError as error:
            self._note(f"{one.name} did not start on the machine that is not in use ({first_line(error)})")
            self._drop(one)

    def _give_up_late(self, launcher: SpareLauncher) -> None:
        """Let a machine alone on which engines are starting for too long: others may use the room."""
        limit_s, up = self._engines.config.cluster.start_timeout_s, launcher.up
        late = [one for one in self._started if one.launcher is launcher and not one.url]
        if not late or launcher.seconds() < limit_s + (_SAYS_ITSELF_S if up else 0.0):
            return
        why = "" if up else "; another job of Ray's may have its GPUs"
        self._note(
            f"{', '.join(one.name for one in late)} did not start on the machine that is not in use within "
            f"{limit_s:g} s (cluster.start_timeout_s){why}"
        )
        for one in late:
            self._drop(one)

    def _drop(self, one: _Engine) -> None:
        """It ends; with the last of its machine the launcher, at a later look."""
        self._started.remove(one)
        if any(other.launcher is one.launcher for other in self._started):
            one.launcher.handle.call.remote("forget", one.name)
            return
        one.launcher.stop()
        self._launchers.remove(one.launcher)
        self._ending.append(one.launcher)
        self._end_launchers()

    def _end_launchers(self) -> None:
        """End those whose servers have ended; their machines are anybody's then."""
        nodes = self._engines.nodes
        for launcher in [one for one in self._ending if one.has_ended()]:
            self._ending.remove(launcher)
            nodes[nodes.index(launcher.node)] = _NOBODYS  # others keep their numbers
