"""Engines give memory up and take it back exactly once: SGLang's scheduler dies of a tag that was not released."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.run.sides.engine_records import Down, Engine
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.healing import Healing
from rlscale.run.sides.weight_sync import WeightSync
from rlscale.serve.http import Unanswered


class FakeReceiver:
    """Keeps the tags as SGLang's weight updater does."""

    def __init__(self) -> None:
        self.offloaded: set[str] = set()
        self.calls: list[tuple[str, list[str]]] = []
        self.dead = False

    def release_memory(self, tags: list[str]) -> None:
        self._refuse_if_dead()
        self.calls.append(("release", tags))
        self.offloaded.update(tags)

    def _refuse_if_dead(self) -> None:
        if self.dead:
            raise Unanswered("http://a/release_memory_occupation: connection refused")

    def resume_memory(self, tags: list[str]) -> None:
        self._refuse_if_dead()
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


def test_the_dead_hinder_no_other_engine_that_is_asked_for_memory(engines, receivers, monkeypatch) -> None:
    monkeypatch.setattr(Engines, "down", lambda _: [])  # nobody has seen it yet
    receivers["http://a"].dead = True
    with pytest.raises(Unanswered):
        engines.release_memory()
    engines.release_memory(of_the_living=True)
    assert receivers["http://b"].offloaded == {"kv_cache", "weights"}
    engines.resume_memory(["kv_cache"], of_the_living=True)
    assert receivers["http://b"].offloaded == {"weights"}
    assert receivers["http://a"].calls == []


@pytest.mark.parametrize("seen", [True, False])
def test_an_engine_that_is_down_or_fails_is_ended_before_the_trainer_needs_its_memory(
    engines, receivers, monkeypatch, seen: bool
) -> None:
    """It may only be stopped: it would not answer before `weights.timeout_s`, and keep what it has."""
    told: list[tuple[str, str]] = []
    launcher = SimpleNamespace(call=SimpleNamespace(remote=lambda *given: told.append(given)))
    notes: list[str] = []
    engines.members[0].spec, engines.members[0].launcher = SimpleNamespace(name="engine-0"), launcher
    engines.calls, engines.note = SimpleNamespace(one=lambda call, what: call), notes.append
    down = [Down(launcher, "engine-0", "did not answer for 20 s")] if seen else []
    monkeypatch.setattr(Engines, "down", lambda _: down)
    receivers["http://a"].dead = not seen
    engines.release_memory(of_the_living=True)
    assert [receiver.calls for receiver in receivers.values()] == [[], [("release", ["kv_cache", "weights"])]]
    assert told == [("end", "engine-0")]
    assert notes == ["engine-0 does not give its memory to the trainer, and was ended"]


@pytest.mark.parametrize("fails", [None, "resume", "score"])
def test_after_the_canary_the_trainer_has_its_memory_again_also_where_an_engine_died_in_it(
    engines, receivers, monkeypatch, fails: str | None
) -> None:
    monkeypatch.setattr(Engines, "down", lambda _: [])
    engines.release_memory()
    receivers["http://a"].dead = fails == "resume"
    told: list[str] = []
    trainer = SimpleNamespace(call=lambda method, what: told.append(method))

    def score(url: str, *_: object) -> None:
        told.append(f"score {url}")
        if fails == "score" and url == "http://b":
            receivers[url].dead = True
            raise UserError("weight sync 3: engine-1 died")

    sync = WeightSync(compose(), trainer, engines, SimpleNamespace(score=score), {}, Path("nowhere"))
    with pytest.raises(UserError) if fails else nullcontext():
        sync._scores(3, engines.urls, np.arange(4, dtype=np.int32))
    assert (told[0], told[-1]) == ("sleep", "wake")
    assert told.count("wake") == 1
    living = [one for one in receivers.values() if not one.dead]
    assert [one.offloaded for one in living] == [{"kv_cache", "weights"}] * len(living)


def test_a_restarted_engine_has_all_of_its_memory(engines, receivers, monkeypatch: pytest.MonkeyPatch) -> None:
    engines.release_memory()
    fresh = receivers["http://c"] = FakeReceiver()
    monkeypatch.setattr(
        Engines, "_router_client", lambda _: SimpleNamespace(add=lambda url, **_: None, remove=lambda url: None)
    )
    Healing(engines, lambda _: None, lambda _: None)._welcome([(engines.members[0], "http://c")])
    engines.resume_memory(["weights"])
    assert fresh.calls == []
    assert receivers["http://b"].offloaded == {"kv_cache"}
