"""Where the servers of a machine listen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rlscale.config.composition.compose import compose
from rlscale.run.sides.launchers import Supervised, start_launcher


def test_a_router_is_for_no_other_machine(tmp_path: Any) -> None:
    started: list[Any] = []
    actors = SimpleNamespace(start=lambda kind, place, *given: started.append((place.node, given)))
    calls: Any = SimpleNamespace(host=actors, processes=SimpleNamespace(add=lambda *_, servers: None))
    config = compose(overrides=["cluster.host=0.0.0.0"])
    start_launcher(calls, config, 0, "first", Supervised(tmp_path, tmp_path, "key", None, frozenset()))
    ((machine, given),) = started
    assert (machine, given[4]) == ("first", "127.0.0.1")
    assert given[-1] == config.cluster.answer_timeout_s
