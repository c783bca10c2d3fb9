"""Where the servers of a machine listen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rlscale.config.composition.compose import compose
from rlscale.run.sides.launchers import Supervised, end_launchers, start_launcher


def test_a_router_is_for_no_other_machine(tmp_path: Any) -> None:
    started: list[Any] = []
    actors = SimpleNamespace(start=lambda kind, place, *given: started.append((place.node, given)))
    calls: Any = SimpleNamespace(host=actors, processes=SimpleNamespace(add=lambda *_, servers: None))
    config = compose(overrides=["cluster.host=0.0.0.0"])
    start_launcher(calls, config, 0, "first", Supervised(tmp_path, tmp_path, "key", None, frozenset()))
    ((machine, given),) = started
    assert (machine, given[4]) == ("first", "127.0.0.1")
    assert given[-1] == config.cluster.answer_timeout_s


def test_a_launcher_that_was_ended_is_watched_no_more() -> None:
    """Its machine may be gone, and whoever asks that one again and again is heard by nobody."""
    ended: list[Any] = []
    forgotten: list[Any] = []
    launcher = SimpleNamespace(call=SimpleNamespace(remote=lambda method: method))
    host = SimpleNamespace(wait=lambda refs, timeout_s: ([], refs), end=ended.append)
    processes = SimpleNamespace(end_frozen=lambda among: None, forget=lambda gone: forgotten.extend(gone))
    calls: Any = SimpleNamespace(host=host, processes=processes)
    end_launchers(calls, {0: launcher}.values())
    assert ended == forgotten == [launcher]
