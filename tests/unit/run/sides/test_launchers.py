"""Where the servers of a machine listen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.run.sides.launchers import Supervised, start_launcher


@pytest.mark.parametrize(("driver", "host"), [("first", "127.0.0.1"), ("another", "0.0.0.0")])
def test_the_router_is_for_other_machines_only_where_the_driver_is_on_one(
    driver: str, host: str, tmp_path: Any
) -> None:
    started: list[Any] = []
    actors = SimpleNamespace(
        is_here=lambda node: node == driver, start=lambda kind, place, *given: started.append((place.node, given))
    )
    calls: Any = SimpleNamespace(host=actors, processes=SimpleNamespace(add=lambda *_, servers: None))
    config = compose(overrides=["cluster.host=0.0.0.0"])
    start_launcher(calls, config, 0, "first", Supervised(tmp_path, tmp_path, "key", None, frozenset()))
    ((machine, given),) = started
    assert (machine, given[4]) == ("first", host)
    assert given[-1] == config.cluster.answer_timeout_s
