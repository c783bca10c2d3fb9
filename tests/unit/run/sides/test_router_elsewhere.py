"""The driver tells a router on another machine of engines by the launcher there."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema.engine_group_config import Role
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.launchers import AT_ONCE
from rlscale.run.sides.router_elsewhere import RouterElsewhere
from rlscale.serve.http import CallError, Unanswered
from rlscale.serve.router import RouterClient

ROUTER = "http://127.0.0.1:9"


class Launcher:
    """The launcher of the router's machine, and Ray between it and the driver."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.workers: dict[str, bool] = {}
        self.error: Exception | None = None
        self.answers = True
        self.call = SimpleNamespace(remote=self._call)

    def _call(self, method: str, router: str, url: str, *given: Any) -> Any:
        self.told.append((method, router, url, *given))
        if method == "add_worker":
            self.workers[url] = False
        elif method == "remove_worker":
            return self.workers.pop(url, None) is not None
        elif url in self.workers:  # one look later
            known, self.workers[url] = self.workers[url], True
            return known
        return None

    def is_here(self, node: str) -> bool:
        return False

    def wait(self, refs: list[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
        return (refs, []) if self.answers else ([], refs)

    def get(self, ref: Any) -> Any:
        if self.error is not None:
            raise self.error
        return ref


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    monkeypatch.setattr(RouterElsewhere, "look_every_s", 0.01)
    return Launcher()


@pytest.fixture
def router(launcher: Any) -> RouterElsewhere:
    return RouterElsewhere(launcher, launcher, ROUTER)


@pytest.mark.parametrize("here", [True, False])
def test_what_is_told_goes_through_the_launcher_of_the_first_machine_unless_that_is_the_drivers(
    here: bool, tmp_path: Any, launcher: Any
) -> None:
    launcher.is_here = lambda node: here
    calls: Any = SimpleNamespace(host=launcher)
    layout: Any = None
    fleet = Engines(compose(None, []), layout, ["first"], calls, tmp_path, tmp_path, lambda note: None)
    fleet._launchers, fleet.router_url = {0: launcher}, ROUTER
    if here:
        assert isinstance(fleet._router_client(), RouterClient)
        return
    fleet._router_client().add("http://a", role=Role.decode)
    fleet.withdraw(["http://a"])
    look = ("worker_is_healthy", ROUTER, "http://a")
    told = [("add_worker", ROUTER, "http://a", Role.decode), look, look, ("remove_worker", ROUTER, "http://a"), look]
    assert launcher.told == told


def test_who_waits_for_an_engine_may_give_it_up_and_leaves_no_call_behind(launcher: Any, router: Any) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        router.add("http://b", meanwhile=give_up)
    assert [method for method, *_ in launcher.told] == ["add_worker", "worker_is_healthy"]


def test_what_the_launcher_raises_is_said_as_it_says_it_and_as_the_router_of_this_machine_would(
    launcher: Any, router: Any
) -> None:
    """Ray's error is of its class, too, and its text is the traceback of another process."""
    for raised, kind, line in (
        (CallError("/workers: status 503: busy"), CallError, "/workers: status 503: busy"),
        (Unanswered("http://127.0.0.1:9/workers: refused"), Unanswered, "http://127.0.0.1:9/workers: refused"),
        (UserError("no"), CallError, "no"),
        (KeyError("id"), CallError, "http://127.0.0.1:9: its launcher raised KeyError: 'id'"),
    ):
        launcher.error = RayTaskError("call", "Traceback (most recent call last):", raised).as_instanceof_cause()
        assert isinstance(launcher.error, type(raised))
        assert str(launcher.error).splitlines()[0] != str(raised)
        with pytest.raises(kind) as found:
            router.remove("http://a")
        assert (type(found.value), str(found.value)) == (kind, line)


def test_a_launcher_that_is_gone_or_does_not_answer_is_a_router_that_nobody_reaches(launcher: Any, router: Any) -> None:
    launcher.error = RayActorError()
    with pytest.raises(Unanswered, match=rf"^{ROUTER}: its launcher is gone \(RayActorError\)$"):
        router.add("http://a")
    launcher.answers = False
    with pytest.raises(Unanswered, match=rf"^{ROUTER}: its launcher did not answer within 60 s$"):
        router.add("http://a")


def test_a_launcher_is_given_no_more_at_once_than_leaves_it_time_for_others(launcher: Any, router: Any) -> None:
    at_once, most, all_there = 0, 0, threading.Barrier(AT_ONCE)
    lock = threading.Lock()

    def wait(refs: list[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        all_there.wait(10.0)
        with lock:
            at_once -= 1
        return refs, []

    launcher.wait = wait
    with ThreadPoolExecutor(2 * AT_ONCE) as threads:
        list(threads.map(router.remove, [f"http://{number}" for number in range(2 * AT_ONCE)]))
    assert most == AT_ONCE
