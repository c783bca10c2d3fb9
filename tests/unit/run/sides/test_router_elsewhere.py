"""The driver tells a router on another machine of engines by the launcher there."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.schema.engine_group_config import Role
from rlscale.run.sides.engines import Engines
from rlscale.serve.http import CallError
from rlscale.serve.router import RouterClient


@pytest.mark.parametrize("here", [True, False])
def test_what_is_told_goes_through_the_launcher_of_the_first_machine_unless_that_is_the_drivers(
    here: bool, tmp_path: Any
) -> None:
    told: list[Any] = []
    launcher = SimpleNamespace(call=SimpleNamespace(remote=lambda *given: told.append(given)))
    clock = itertools.count(0.0, 60.0)
    host = SimpleNamespace(
        is_here=lambda node: here,
        wait=lambda refs, _: (refs, []),
        get=lambda ref: ref,
        clock=lambda: next(clock),
    )
    calls: Any = SimpleNamespace(host=host)
    layout: Any = None
    fleet = Engines(compose(None, []), layout, ["first"], calls, tmp_path, tmp_path, lambda note: None)
    fleet._launchers, fleet.router_url = {0: launcher}, "http://127.0.0.1:9"
    if here:
        assert isinstance(fleet._router_client(), RouterClient)
        return
    fleet._router_client().add("http://a", role=Role.decode)
    fleet.withdraw(["http://a"])
    assert told == [
        ("add_worker", fleet.router_url, "http://a", Role.decode),
        ("remove_worker", fleet.router_url, "http://a"),
    ]
    host.wait = lambda refs, _: ([], refs)
    with pytest.raises(CallError, match=r"^http://127\.0\.0\.1:9: its launcher did not answer within 150 s$"):
        fleet._router_client().remove("http://a")

    def give_up() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fleet._router_client().add("http://b", role=Role.regular, meanwhile=give_up)
