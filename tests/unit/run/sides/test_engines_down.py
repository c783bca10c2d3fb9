"""Engines that are down: in which order they are mended, what does not end a run, and who watches a sync."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema.engine_group_config import Role
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopRequested
from rlscale.run.sides import weight_sync
from rlscale.run.sides.engine_records import Down, Engine
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.healing import RestartOrder
from rlscale.run.sides.launchers import AT_ONCE
from rlscale.run.sides.weight_sync import WeightSync
from rlscale.serve.http import CallError, Unanswered
from rlscale.serve.supervisor import ROUTER


def _answered(answer: Any, *_: Any, **__: Any) -> Any:
    """In place of waiting for it."""
    return answer


class Fleet:
    """A launcher of two engines and a router, its calls answered at once. `down` by the name of the server."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, roles: tuple[Role, Role] = (Role.regular, Role.regular), **down: str
    ) -> None:
        self.down = dict(down)
        self.frees: dict[str, str] = {}
        """Who answers again once another one was restarted."""
        self.asked: list[tuple[Any, ...]] = []
        self.notes: list[str] = []
        self.given: list[list[str]] = []
        """The engines that were given weights, together."""
        self.router_is_gone = self.stopping = False
        self.keeps = ""
        """The engine that the router does not remove."""
        self.frozen = ""
        """The engine that does not answer the router."""
        self.patience_s = 0.1
        """How long the router waits for it."""
        self.lookers: set[int] = set()
        """Threads that asked what is down."""
        self.joined: list[tuple[str, Role]] = []
        calls: Any = SimpleNamespace(patience_s=20.0, one=_answered, wait=_answered, check_stop=self._check_stop)
        calls.stopping = False
        none: Any = None
        groups = [f"rollout.engine_groups.{role.value}.role={role.value}" for role in {*roles} - {Role.regular}]
        self.engines = Engines(compose(None, groups), none, [], calls, Path(), Path(), self.notes.append)
        launcher: Any = SimpleNamespace(call=SimpleNamespace(remote=self._call))
        self.engines._launchers = {0: launcher}
        for name, role in zip(("engine-0", "engine-1"), roles, strict=True):
            spec: Any = SimpleNamespace(name=name, role=role, tensor_parallel=1)
            self.engines._engines.append(Engine(spec, launcher, f"http://{name}"))
        router: Any = SimpleNamespace(remove=self._router, add=self._add)
        monkeypatch.setattr(Engines, "_router_client", lambda _: router)

    def _check_stop(self) -> None:
        if self.stopping:
            raise StopRequested

    def _router(self, url: str) -> None:
        if self.router_is_gone or url == self.keeps:
            raise CallError(f"{url}: refused")

    def _add(self, url: str, role: Role, meanwhile: Any) -> None:
        if url == self.frozen:  # as a router that waits for it, in which nobody is healthy
            self.down |= {url.removeprefix("http://"): "did not answer for 20 s"}
            give_up = time.monotonic() + self.patience_s
            while time.monotonic() < give_up:
                meanwhile()
                time.sleep(0.01)
            raise CallError(f"{url} did not become a worker within 60 s")
        self.joined.append((url, role))

    def _call(self, method: str, *args: Any) -> Any:
        self.asked.append((method, *args))
        if method == "down":
            self.lookers.add(threading.get_ident())
            return dict(self.down)
        self.down.pop(args[0], None)
        self.down.pop(self.frees.get(args[0], ""), None)
        return f"http://{args[0]}"

    def heal(self) -> list[str]:
        """Mend what is down; the servers that were restarted."""
        self.engines.heal(self.given.append, lambda url: None)
        return [call[1] for call in self.asked if call[0] == "restart"]


def test_the_router_is_mended_first_and_the_reason_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, **{"engine-1": "died", ROUTER: "did not answer for 20 s"})
    assert fleet.heal() == [ROUTER, "engine-1"]
    assert ("restart", ROUTER, "did not answer for 20 s") in fleet.asked
    assert fleet.notes[0] == "router did not answer for 20 s; restarting it"
    assert fleet.engines.restarts == 2
    assert list(fleet.engines.restarts_of.values()) == [1]


def test_an_engine_that_was_silent_because_of_another_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "did not answer for 20 s", "engine-1": "did not answer for 20 s"})
    fleet.frees = {"engine-0": "engine-1"}
    assert fleet.heal() == ["engine-0"]


def test_engines_that_ended_are_restarted_beside_each_other_and_get_the_weights_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died", "engine-1": "died"})
    waited: list[Any] = []
    monkeypatch.setattr(fleet.engines.calls, "one", lambda answer, what, **_: waited.append(what) or answer)
    assert fleet.heal() == ["engine-0", "engine-1"]
    first = waited.index("restart of engine-0")
    assert [call for call in fleet.asked if call[0] == "restart"] == [
        ("restart", "engine-0", "died"),
        ("restart", "engine-1", "died"),
    ]
    assert waited[first : first + 2] == ["restart of engine-0", "restart of engine-1"]  # nothing between them
    assert fleet.given == [["http://engine-0", "http://engine-1"]]


def test_an_engine_that_dies_again_before_it_has_the_weights_is_left_to_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died", "engine-1": "died"})

    def give(urls: list[str]) -> None:
        fleet.given.append(urls)
        if "http://engine-0" in urls:
            fleet.down["engine-0"] = "died"
            raise UserError("http://engine-0: connection refused")

    fleet.engines.heal(give, lambda url: None)
    assert fleet.given == [["http://engine-0", "http://engine-1"], ["http://engine-1"]]
    assert [url for url, _ in fleet.joined] == ["http://engine-1"]
    assert "engine-0 did not come back (http://engine-0: connection refused)" in fleet.notes
    fleet.given.clear()
    fleet.heal()
    assert fleet.given == [["http://engine-0"]]


def test_an_engine_that_dies_again_is_seen_dead_a_moment_later_though_another_one_is_down_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died", "engine-1": "died"})
    answer, looked = fleet._call, []

    def call(method: str, *args: Any) -> Any:
        if method == "restart" and args[0] == "engine-1":
            raise UserError("no memory is free")
        if method == "down" and fleet.given:
            looked.append(None)
            if len(looked) == 2:
                fleet.down["engine-0"] = "died"
        return answer(method, *args)

    def give(urls: list[str]) -> None:
        fleet.given.append(urls)
        raise UserError("http://engine-0: connection reset")

    fleet.engines._launchers[0].call.remote = call
    fleet.engines.heal(give, lambda url: None)
    assert fleet.given == [["http://engine-0"]]
    assert fleet.joined == []
    assert fleet.notes[-2:] == [
        "engine-1 did not come back (no memory is free)",
        "engine-0 did not come back (http://engine-0: connection reset)",
    ]


@pytest.mark.parametrize("other", ["", "engine-1"])
def test_weights_that_do_not_come_although_who_gets_them_is_not_down_end_the_run(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died"})
    monkeypatch.setattr("rlscale.run.sides.healing._DEATH_SHOWS_S", 0.0)

    def give(urls: list[str]) -> None:
        if other:
            fleet.down[other] = "died"
        raise UserError("the canary differs")

    with pytest.raises(UserError, match="the canary differs"):
        fleet.engines.heal(give, lambda url: None)


def downs(count: int, why: str, machines: int = 1) -> list[Down]:
    launchers = [object() for _ in range(machines)]
    return [Down(launchers[number % machines], f"engine-{number}", why) for number in range(count)]


def test_so_many_engines_of_each_machine_are_restarted_at_once_and_no_more_than_may_be() -> None:
    down, order = downs(4 * AT_ONCE, "died", machines=2), RestartOrder()
    assert len(first := order.next(down, 100)) == 2 * AT_ONCE
    assert len(second := order.next(down, 5)) == 5
    assert len(order.next(down, 100)) == 2 * AT_ONCE - 5
    assert not {one.name for one in first} & {one.name for one in second}
    assert order.next(down, 100) == []


def test_of_silent_engines_one_is_restarted_alone_before_the_others_and_after_those_that_ended() -> None:
    silent, ended, order = downs(4, "did not answer for 20 s"), [Down(object(), "engine-9", "died")], RestartOrder()
    assert order.next([*silent, *ended], 100) == ended
    assert order.next(silent, 100) == silent[:1]
    assert order.next(silent, 100) == silent[1:]


def test_engines_that_share_requests_are_started_again_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """They get the same weights before the router knows any of them; the others' keys and values were of older ones."""
    fleet = Fleet(monkeypatch, (Role.prefill, Role.decode), **{"engine-1": "died"})
    assert fleet.heal() == ["engine-0", "engine-1"]
    assert ("restart", "engine-0", "works with engine-1, which died") in fleet.asked
    assert fleet.given == [["http://engine-0", "http://engine-1"]]
    assert dict(fleet.joined) == {"http://engine-0": Role.prefill, "http://engine-1": Role.decode}
    assert fleet.engines.restarts == 1
    assert fleet.engines.restarts_of == {"http://engine-0": 1, "http://engine-1": 1}


def test_engines_that_share_requests_are_started_again_once_more_where_one_is_down_before_they_have_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where that one, which was only silent, answers by the next look: the router knows none of them."""
    fleet = Fleet(monkeypatch, (Role.prefill, Role.decode), **{"engine-1": "died"})

    def give(urls: list[str]) -> None:
        fleet.down["engine-0"] = "did not answer for 20 s"
        raise UserError("http://engine-0: no answer within 60 s")

    fleet.engines.heal(give, lambda url: None)
    assert fleet.joined == []
    assert fleet.notes[-1] == "the engines did not get the weights (http://engine-0: no answer within 60 s)"
    fleet.down.clear()
    assert fleet.heal() == ["engine-0", "engine-1"] * 2
    assert fleet.given == [["http://engine-0", "http://engine-1"]]
    assert sorted(url for url, _ in fleet.joined) == ["http://engine-0", "http://engine-1"]
    assert fleet.heal() == ["engine-0", "engine-1"] * 2  # nothing is left to do


def test_weights_that_engines_which_share_requests_do_not_get_although_none_is_down_end_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch, (Role.prefill, Role.decode), **{"engine-1": "died"})
    monkeypatch.setattr("rlscale.run.sides.healing._DEATH_SHOWS_S", 0.0)

    def give(urls: list[str]) -> None:
        raise UserError("the canary differs")

    with pytest.raises(UserError, match="the canary differs"):
        fleet.engines.heal(give, lambda url: None)


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


def test_who_watches_a_wave_that_is_admitted_does_so_in_its_own_thread_and_may_give_all_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch)
    fleet.frozen, fleet.patience_s = "http://engine-1", 20.0

    def watch() -> None:
        if fleet.engines.down():
            raise UserError("weight sync 7: engine-1 did not answer for 20 s")

    with pytest.raises(UserError, match="weight sync 7"):
        fleet.engines.admit(fleet.engines.urls, watch)
    assert (fleet.lookers, fleet.joined) == ({threading.get_ident()}, [("http://engine-0", Role.regular)])


def test_nothing_is_restarted_for_a_run_that_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died"})
    fleet.stopping = True
    with pytest.raises(StopRequested):
        fleet.heal()
    assert ("restart", "engine-0", "died") not in fleet.asked


@pytest.mark.parametrize("url", ["http://engine-0", "http://engine-1"])
def test_a_sync_ends_when_one_of_its_engines_is_down_and_asks_as_of_one_that_loads(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_sync, "_LOOK_EVERY_S", 0.0)
    fleet = Fleet(monkeypatch, **{"engine-1": "did not answer for 20 s", ROUTER: "died"})
    none: Any = None
    look = WeightSync(compose(), none, fleet.engines, none, {}, Path("nowhere")).watching(7, [url])
    if url == "http://engine-0":
        look()
    else:
        with pytest.raises(UserError, match=r"^weight sync 7: engine-1 did not answer for 20 s$"):
            look()
    assert fleet.asked == [("down", 20.0, True)]


@pytest.mark.parametrize(("down", "why"), [("engine-1", "did not answer for 20 s"), (ROUTER, "died")])
def test_before_anything_loads_whatever_is_silent_ends_a_sync(
    down: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_sync, "_LOOK_EVERY_S", 0.0)
    fleet = Fleet(monkeypatch, **{down: why})
    none: Any = None
    with pytest.raises(UserError, match=rf"^weight sync 7: {down} {why}$"):
        WeightSync(compose(), none, fleet.engines, none, {}, Path("nowhere")).watching(7)()
    assert fleet.asked == [("down", 20.0, False)]


def test_the_way_to_engines_of_one_rank_is_the_same_for_waves_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the trainer would connect anew for each."""
    fleet = Fleet(monkeypatch)
    none: Any = None
    config = compose(None, ["cluster.placement=disaggregated"])
    sync = WeightSync(config, none, fleet.engines, none, {}, Path("nowhere"))
    assert sync._route(fleet.engines.urls) == sync._route(fleet.engines.urls[:1])


def test_engines_come_back_to_the_router_in_their_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, (Role.prefill, Role.decode))
    fleet.engines.admit(["http://engine-1"])
    assert fleet.joined == [("http://engine-1", Role.decode)]


def test_none_of_engines_that_share_requests_is_restarted_while_the_router_sends_some_to_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch, (Role.prefill, Role.decode), **{"engine-1": "died"})
    fleet.keeps = "http://engine-1"
    assert fleet.heal() == []
    fleet.keeps = ""
    assert fleet.heal() == ["engine-0", "engine-1"]


def test_without_restarts_a_run_goes_on_with_as_many_engines_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died"})
    least = ["rollout.engines=2", "rollout.engines_at_least=1", "cluster.engine_restarts=0"]
    fleet.engines.config = compose(None, least)
    with_forget = fleet._call

    def call(method: str, *args: Any) -> Any:
        if method == "forget":
            fleet.down.pop(args[0])
        return with_forget(method, *args)

    fleet.engines._engines[0].launcher.call.remote = call
    assert fleet.heal() == []
    assert fleet.engines.urls == ["http://engine-1"]
    assert fleet.notes == ["engine-0 died; no restart is left, and the run goes on without it"]
    fleet.down["engine-1"] = "died"
    with pytest.raises(RunFailed, match="restarts are used up, which it had within an hour"):
        fleet.heal()


def test_a_machine_of_more_engines_than_one_may_have_restarts_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"engine-{number}" for number in range(3)]
    fleet = Fleet(monkeypatch, **dict.fromkeys(names[:2], "died"))
    fleet.engines.config = compose(None, ["rollout.engines=2", "cluster.engine_restarts=1"])
    assert fleet.heal() == names[:2]
    fleet.down["engine-1"] = "died"
    with pytest.raises(RunFailed, match=r"engine-1 died and cluster\.engine_restarts=1 restarts are used up"):
        fleet.heal()


def test_what_is_down_is_told_with_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, **{"engine-0": "died"})
    launcher = fleet.engines._launchers[0]
    assert fleet.engines.down() == [Down(launcher, "engine-0", "died")]
    assert fleet.engines.down_among(["http://engine-1"]) == []
