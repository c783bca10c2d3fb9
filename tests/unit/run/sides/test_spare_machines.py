"""Engines on machines of Ray's cluster that a run does not use: started up to the most, and ended once they leave."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.run.processes.placement import Layout
from rlscale.run.sides import spare_machines
from rlscale.run.sides.engine_records import Engine
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.spare_machines import SpareMachines

GIVEN = (
    *("cluster=multinode_disaggregated", "cluster.nodes=2", "cluster.gpus_per_node=4", "cluster.rollout_nodes=1"),
    *("rollout.gpus_per_engine=2", "rollout.engines=1", "rollout.engines_at_most=4"),
)


class Launcher:
    """Of a machine: it begins to start engines, and ends."""

    def __init__(self, node: str, orders: list[Any]) -> None:
        self.node, self.call = node, SimpleNamespace(remote=self._order)
        self._orders = orders

    def _order(self, method: str, given: Any) -> str:
        name = getattr(given, "name", given)
        self._orders.append((method, name, getattr(given, "gpus", None)))
        return str(name)


class Cluster:
    """Ray's machines, of which the run has two and one engine; what was started on others, and what has ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = ["head", "second"]
        self.notes: list[str] = []
        self.orders: list[Any] = []
        self.launched: list[tuple[int, str]] = []
        self.ended: list[str] = []
        self.done: dict[str, Any] = {}
        """What the start of an engine came to, by its name."""
        host = SimpleNamespace(present=lambda gpus: self.there, is_here=lambda node: False, wait=self._wait)
        calls: Any = SimpleNamespace(host=host, one=self._one)
        place = Path(), Path(), self.notes.append
        nodes = ["head", "second"]
        self.engines = Engines(compose(None, list(GIVEN)), Layout((), ()), nodes, calls, *place)
        self.engines.started_from = "model"
        self.join("http://first")
        monkeypatch.setattr(spare_machines, "start_launcher", self._launch)
        monkeypatch.setattr(spare_machines, "end_launchers", self._end)
        self.machines = SpareMachines(self.engines, self.notes.append)

    def join(self, url: str) -> None:
        """As the membership does."""
        nobody: Any = None
        self.engines._engines.append(Engine(None, nobody, url))

    def look(self) -> list[str]:
        return list(self.machines.look())

    def _launch(self, calls: Any, config: Any, number: int, node: str, servers: Any) -> Launcher:
        self.launched.append((number, node))
        return Launcher(node, self.orders)

    def _end(self, calls: Any, launchers: Any) -> None:
        self.ended += [one.node for one in launchers]

    def _wait(self, refs: list[str], timeout_s: float) -> tuple[list[str], list[str]]:
        return [one for one in refs if one in self.done], [one for one in refs if one not in self.done]

    def _one(self, ref: str, what: str) -> str:
        if isinstance(self.done[ref], Exception):
            raise self.done[ref]
        return str(self.done[ref])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_engines_start_on_a_machine_that_joins_and_are_taken_in_when_they_are_ready(cluster: Cluster) -> None:
    assert cluster.look() == []
    assert cluster.launched == []
    cluster.there = ["head", "new", "second"]
    assert cluster.look() == []
    assert cluster.launched == [(2, "new")]
    assert cluster.orders == [("start_engine", "engine-2-0", (0, 1)), ("start_engine", "engine-2-1", (2, 3))]
    assert cluster.engines.nodes == ["head", "second", "new"]  # no place for lost ranks
    cluster.done["engine-2-1"] = "http://b"
    assert cluster.look() == ["http://b"]
    assert (cluster.look(), cluster.machines.urls) == ([], {"http://b"})
    assert cluster.notes == ["Ray has a machine that is not in use: starting 2 engines there"]


def test_there_are_no_more_than_may_be_those_that_are_starting_included(cluster: Cluster) -> None:
    cluster.there = ["another", "head", "new", "second"]
    cluster.look()
    assert [name for _, name, _ in cluster.orders] == ["engine-2-0", "engine-2-1", "engine-3-0"]
    cluster.there.append("too many")
    cluster.look()
    assert len(cluster.launched) == 2


def test_one_that_leaves_ends_and_its_machine_with_the_last(cluster: Cluster) -> None:
    cluster.there = ["head", "new", "second"]
    cluster.look()
    cluster.done = {"engine-2-0": "http://a", "engine-2-1": "http://b"}
    cluster.look()
    assert cluster.machines.lost("http://a")
    assert (cluster.orders[-1][:2], cluster.ended) == (("forget", "engine-2-0"), [])
    assert not cluster.machines.lost("http://first")
    assert cluster.machines.lost("http://b")
    assert (cluster.ended, cluster.engines.nodes) == (["new"], ["head", "second", ""])
    assert (cluster.look(), len(cluster.launched)) == ([], 1)  # it is not tried again


def test_one_that_does_not_start_is_a_line_and_the_run_goes_on(cluster: Cluster) -> None:
    cluster.there = ["head", "new", "second"]
    cluster.look()
    cluster.done = {"engine-2-0": UserError("engine-2-0 died\nits log"), "engine-2-1": "http://b"}
    assert cluster.look() == ["http://b"]
    assert cluster.notes[1:] == ["engine-2-0 did not start on the machine that is not in use (engine-2-0 died)"]
    cluster.machines.close()
    assert cluster.ended == ["new"]
