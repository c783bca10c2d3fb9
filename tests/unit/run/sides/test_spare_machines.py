"""Engines on machines of Ray's cluster that a run does not use: started up to the most, and ended once they leave."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.run.processes.placement import Layout, Slot
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
        self.whereabouts = SimpleNamespace(remote=lambda: f"{node} is up")
        self._orders = orders

    def _order(self, method: str, given: Any = None) -> str:
        name = getattr(given, "name", given) or method
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
        """What the start of an engine came to, by its name; what an order came to, by the order."""
        self.never_up: set[str] = set()
        """Machines on which no process starts, as another job has their GPUs."""
        self.waited: list[str] = []
        """Those whose launchers somebody waited for at the end."""
        self.now = 0.0
        host = SimpleNamespace(
            present=lambda gpus: self.there,
            gone=lambda nodes: [node for node in nodes if node not in self.there],
            is_here=lambda node: False,
            wait=self._wait,
            clock=lambda: self.now,
            end=lambda one: self.ended.append(one.node),
        )
        processes = SimpleNamespace(end_frozen=lambda among: None, forget=lambda actors: None)
        calls: Any = SimpleNamespace(host=host, one=self._one, processes=processes)
        place = Path(), Path(), self.notes.append
        nodes = ["head", "second"]
        layout = Layout((Slot(0, (0,)),), (Slot(1, (0, 1)),))
        self.engines = Engines(compose(None, list(GIVEN)), layout, nodes, calls, *place)
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
        self.waited += [one.node for one in launchers]
        self.ended += [one.node for one in launchers]

    def _wait(self, refs: list[str], timeout_s: float) -> tuple[list[str], list[str]]:
        assert timeout_s == 0.0  # the driver waits for no other machine
        up = {f"{node} is up" for _, node in self.launched if node not in self.never_up}
        back = [one for one in refs if one in self.done or one in up]
        return back, [one for one in refs if one not in back]

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
    assert (cluster.orders[-1][:2], cluster.ended) == (("stop", "stop"), [])
    cluster.done["stop"] = None
    assert (cluster.look(), len(cluster.launched)) == ([], 1)  # it is not tried again
    assert (cluster.ended, cluster.engines.nodes) == (["new"], ["head", "second", ""])


def test_a_launcher_that_does_not_hear_that_it_ends_holds_up_nobody_and_ends_after_8_seconds(cluster: Cluster) -> None:
    cluster.there = ["head", "new", "second"]
    cluster.look()
    cluster.done = {"engine-2-0": "http://a", "engine-2-1": UserError("none")}
    cluster.look()
    cluster.now = 100.0
    assert cluster.machines.lost("http://a")
    cluster.now = 107.9
    cluster.look()
    assert (cluster.ended, cluster.engines.nodes[2]) == ([], "new")  # its GPUs are not free yet
    cluster.now = 108.0
    cluster.look()
    assert (cluster.ended, cluster.engines.nodes[2]) == (["new"], "")
    cluster.machines.close()
    assert (cluster.ended, cluster.waited) == (["new"], [])


def test_a_machine_that_another_job_holds_is_given_up_and_its_room_is_anothers(cluster: Cluster) -> None:
    cluster.never_up = {"held"}
    cluster.there = ["head", "held", "second"]
    cluster.join("http://other")
    cluster.look()
    cluster.there = ["free", "head", "held", "second"]
    cluster.now = 1799.0
    assert (cluster.look(), cluster.launched) == ([], [(2, "held")])
    cluster.now = 1800.0
    cluster.look()
    assert (cluster.ended, cluster.engines.nodes) == (["held"], ["head", "second", ""])
    assert cluster.notes[1:] == [
        "engine-2-0, engine-2-1 did not start on the machine that is not in use within 1800 s "
        "(cluster.start_timeout_s); another job of Ray's may have its GPUs"
    ]
    cluster.look()
    assert cluster.launched[1:] == [(3, "free")]


def test_engines_have_their_time_from_when_their_launcher_is_up_and_say_themselves_that_it_is_over(
    cluster: Cluster,
) -> None:
    cluster.never_up = {"new"}
    cluster.there = ["head", "new", "second"]
    cluster.look()
    cluster.now, cluster.never_up = 1000.0, set()
    cluster.look()
    cluster.now = 2809.0
    cluster.look()
    assert len(cluster.notes) == 1
    cluster.now = 2810.0
    cluster.look()
    assert cluster.notes[1:] == [
        "engine-2-0, engine-2-1 did not start on the machine that is not in use within 1800 s (cluster.start_timeout_s)"
    ]
    assert cluster.orders[-1][1] == "stop"


def test_at_the_end_a_launcher_that_never_came_up_is_not_waited_for(cluster: Cluster) -> None:
    cluster.never_up = {"held"}
    cluster.there = ["head", "held", "new", "second"]
    cluster.look()
    cluster.machines.close()
    assert (cluster.ended, cluster.waited) == (["held", "new"], ["new"])


def test_a_machine_that_joins_once_one_of_the_ranks_is_gone_is_left_to_them(cluster: Cluster) -> None:
    cluster.there = ["new", "second"]
    assert (cluster.look(), cluster.launched) == ([], [])
    cluster.engines.nodes[0] = "new"  # where they came back
    cluster.there.append("newer")
    cluster.look()
    assert cluster.launched == [(2, "newer")]


def test_engines_start_although_a_machine_of_other_engines_is_gone(cluster: Cluster) -> None:
    cluster.there = ["head", "new"]
    cluster.look()
    assert cluster.launched == [(2, "new")]


def test_one_that_does_not_start_is_a_line_and_the_run_goes_on(cluster: Cluster) -> None:
    cluster.there = ["head", "new", "second"]
    cluster.look()
    cluster.done = {"engine-2-0": UserError("engine-2-0 died\nits log"), "engine-2-1": "http://b"}
    assert cluster.look() == ["http://b"]
    assert cluster.notes[1:] == ["engine-2-0 did not start on the machine that is not in use (engine-2-0 died)"]
    cluster.machines.close()
    assert cluster.ended == ["new"]
