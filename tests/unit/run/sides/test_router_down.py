"""A router that is down, with engines that are or are not: who is mended first, and who is let in again."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.engine_group_config import Role
from rlscale.run.sides.engines import Engines
from rlscale.serve.http import CallError, Unanswered
from rlscale.serve.supervisor import ROUTER
from tests.unit.run.sides.told_fleet import Fleet


def test_the_router_is_mended_first_and_the_reason_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, **{"engine-1": "died", ROUTER: "did not answer for 20 s"})
    assert fleet.heal() == [ROUTER, "engine-1"]
    assert ("restart", ROUTER, "did not answer for 20 s") in fleet.asked
    assert fleet.notes[0] == "router did not answer for 20 s; restarting it"
    assert fleet.engines.restarts == 2
    assert list(fleet.engines.restarts_of.values()) == [1]


def test_an_engine_that_got_no_weights_is_started_again_though_it_answers_and_no_router_is_told_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died"})

    def give(urls: list[str]) -> None:
        fleet.down["engine-0"] = "did not answer for 20 s"
        raise UserError("http://engine-0: no answer within 60 s")

    fleet.engines.heal(give, lambda url: None)
    fleet.down = {ROUTER: "died"}
    assert fleet.heal() == ["engine-0", ROUTER, "engine-0"]
    assert ("restart", "engine-0", "is left out by the router") in fleet.asked
    assert [url for url, _ in fleet.joined] == ["http://engine-1", "http://engine-0"]
    assert fleet.given == [["http://engine-0"]]


def test_a_router_that_does_not_answer_either_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died"})
    fleet.router_is_gone = True
    assert fleet.heal() == []
    assert fleet.notes[-1] == "engine-0 did not come back (http://engine-0: refused)"
    fleet.router_is_gone = False
    assert fleet.heal() == ["engine-0"]


def test_engines_that_a_stuck_router_does_not_let_go_are_started_again_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was not seen to be stuck before they were, and they were left as they were until something needed them."""
    fleet = Fleet(monkeypatch, **{"engine-0": "died", "engine-1": "died"})
    asked: list[str] = []

    def remove(url: str) -> None:
        asked.append(url)
        if len(asked) == 1:
            fleet.down[ROUTER] = "did not answer for 20 s"
            raise Unanswered(f"{url}: no answer within 15 s")

    router: Any = SimpleNamespace(remove=remove, add=fleet._add)
    monkeypatch.setattr(Engines, "_router_client", lambda _: router)
    assert fleet.heal() == [ROUTER, "engine-0", "engine-1"]
    assert asked == [f"http://{name}" for name in ("engine-0", "engine-0", "engine-1")]
    assert fleet.engines.restarts == 3
    assert fleet.given == [["http://engine-0", "http://engine-1"]]


def test_a_router_comes_back_although_a_guest_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, **{ROUTER: "died"})
    fleet.engines._engines[0].spec = None
    added: list[str] = []

    def add(url: str, role: Role, meanwhile: Any) -> None:
        if url == "http://engine-0":
            raise CallError(f"{url} did not become a worker")
        added.append(url)

    router: Any = SimpleNamespace(add=add)
    monkeypatch.setattr(Engines, "_router_client", lambda _: router)
    assert fleet.heal() == [ROUTER]
    assert added == ["http://engine-1"]
    assert fleet.notes[-1] == "router is back"


@pytest.mark.parametrize("seen", [True, False])
def test_an_engine_that_is_stuck_when_the_router_comes_back_is_started_again_after_it(
    monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """The router waits for its answer; nobody else does longer than until it is seen to be down."""
    monkeypatch.setattr("rlscale.run.sides.healing._LOOK_EVERY_S", 0.0 if seen else 60.0)
    fleet = Fleet(monkeypatch, **{ROUTER: "died"})
    fleet.frozen, fleet.patience_s = "http://engine-1", 20.0 if seen else 0.1
    restart = fleet._call

    def call(method: str, *args: Any) -> Any:
        if (method, args[0]) == ("restart", "engine-1"):
            fleet.frozen = ""
        return restart(method, *args)

    fleet.engines._launchers[0].call.remote = call
    assert fleet.heal() == [ROUTER, "engine-1"]
    assert [url for url, _ in fleet.joined] == ["http://engine-0", "http://engine-1"]
    why = "engine-1 did not answer for 20 s" if seen else "http://engine-1 did not become a worker within 60 s"
    assert f"engine-1 did not come back ({why})" in fleet.notes
    assert fleet.notes[-1] == "engine-1 is back with the current weights"
    assert fleet.lookers == {threading.get_ident()}  # calls of a run that is one process are made in its thread alone


@pytest.mark.parametrize("back", [ROUTER, "engine-0"])
def test_a_router_that_dies_again_while_engines_are_admitted_costs_no_engine_a_restart(
    monkeypatch: pytest.MonkeyPatch, back: str
) -> None:
    """Its connections break before anybody sees that it is dead."""
    fleet = Fleet(monkeypatch, **{back: "died"})
    dies = [True, True]
    add = fleet._add

    def broken(url: str, role: Role, meanwhile: Any) -> None:
        if dies:
            dies.pop()
            threading.Timer(0.2, lambda: fleet.down.update({ROUTER: "died"})).start()
            raise Unanswered("http://router/workers: connection refused")
        add(url, role, meanwhile)

    router: Any = SimpleNamespace(remove=fleet._router, add=broken)
    monkeypatch.setattr(Engines, "_router_client", lambda _: router)
    if back == "engine-0":
        dies.pop()
    assert fleet.heal() == [back, *([ROUTER] if back != ROUTER else [])]
    if back == ROUTER:
        assert fleet.notes[-1] == "router did not come back (it died)"
        assert fleet.heal() == [ROUTER, ROUTER]
    assert sorted(url for url, _ in fleet.joined) == ["http://engine-0", "http://engine-1"]
    assert fleet.notes[-1] == "router is back"
    assert fleet.engines.restarts == 2


def test_engines_come_back_to_the_router_in_their_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, (Role.prefill, Role.decode))
    fleet.engines.admit(["http://engine-1"])
    assert fleet.joined == [("http://engine-1", Role.decode)]
