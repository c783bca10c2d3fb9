"""Engines that are down: in which order they are mended, and what does not end a run."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema.engine_group_config import Role
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopRequested
from rlscale.run.sides.engine_records import Down
from rlscale.run.sides.healing import RestartOrder
from rlscale.run.sides.launchers import AT_ONCE
from tests.unit.run.sides.told_fleet import Fleet


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


def test_none_of_engines_that_share_requests_is_restarted_while_the_router_sends_some_to_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch, (Role.prefill, Role.decode), **{"engine-1": "died"})
    fleet.keeps = "http://engine-1"
    assert fleet.heal() == []
    fleet.keeps = ""
    assert fleet.heal() == ["engine-0", "engine-1"]
