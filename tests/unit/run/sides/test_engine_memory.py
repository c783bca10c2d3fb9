"""Engines give memory up and take it back exactly once: SGLang's scheduler dies of a tag that was not released."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from rlscale.config.schema import Config
from rlscale.run.sides.engine_records import Engine
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.healing import Healing


class FakeReceiver:
    """Keeps the tags as SGLang's weight updater does."""

    def __init__(self) -> None:
        self.offloaded: set[str] = set()
        self.calls: list[tuple[str, list[str]]] = []

    def release_memory(self, tags: list[str]) -> None:
        self.calls.append(("release", tags))
        self.offloaded.update(tags)

    def resume_memory(self, tags: list[str]) -> None:
        self.calls.append(("resume", tags))
        for tag in tags:
            self.offloaded.remove(tag)


@pytest.fixture
def receivers() -> dict[str, FakeReceiver]:
    return {"http://a": FakeReceiver(), "http://b": FakeReceiver()}


@pytest.fixture
def engines(receivers: dict[str, FakeReceiver], monkeypatch: pytest.MonkeyPatch) -> Engines:
    monkeypatch.setattr(Engines, "_receiver", lambda _, url: receivers[url])
    layout = calls = None
    fleet = Engines(Config(), layout, [], calls, Path(), Path(), print)  # type: ignore[arg-type]  # never reached
    fleet._engines = [Engine(None, None, url) for url in receivers]
    return fleet


def test_engines_that_released_nothing_are_not_asked_to_resume(engines, receivers) -> None:
    engines.resume_memory(["weights"])
    engines.resume_memory(["kv_cache"])
    assert [receiver.calls for receiver in receivers.values()] == [[], []]
    assert not engines.gave_memory


def test_memory_is_released_once_and_resumed_tag_by_tag(engines, receivers) -> None:
    engines.release_memory()
    engines.release_memory()
    assert engines.gave_memory
    for tag in ("weights", "weights", "kv_cache"):
        engines.resume_memory([tag])
    assert not engines.gave_memory
    turn = [("release", ["kv_cache", "weights"]), ("resume", ["weights"]), ("resume", ["kv_cache"])]
    assert [receiver.calls for receiver in receivers.values()] == [turn, turn]


def test_a_cache_lent_for_the_canary_is_released_alone(engines, receivers) -> None:
    engines.release_memory()
    engines.resume_memory(["weights", "kv_cache"])
    engines.release_memory(["kv_cache"])
    assert receivers["http://a"].offloaded == {"kv_cache"}


def test_a_restarted_engine_has_all_of_its_memory(engines, receivers, monkeypatch: pytest.MonkeyPatch) -> None:
    engines.release_memory()
    fresh = receivers["http://c"] = FakeReceiver()
    monkeypatch.setattr(
        Engines, "_router_client", lambda _: SimpleNamespace(add=lambda url, role: None, remove=lambda url: None)
    )
    Healing(engines, lambda _: None, lambda _: None)._welcome([(engines.members[0], "http://c")])
    engines.resume_memory(["weights"])
    assert fresh.calls == []
    assert receivers["http://b"].offloaded == {"kv_cache"}
