"""Which engines are asked for traces, and what becomes of one that has none. A real one writes in tests/e2e/serve."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.run.sides import engine_profiles
from rlscale.run.sides.engine_profiles import EngineProfiles
from rlscale.run.sides.engine_records import Engine
from rlscale.serve.http import CallError


def fleet(members: list[Engine], notes: list[str], *words: str) -> Any:
    config = compose(None, list(words))
    return SimpleNamespace(config=config, members=members, api_key="", note=notes.append)


def own(name: str, url: str) -> Engine:
    """An engine that the run itself started."""
    spec: Any = SimpleNamespace(name=name)
    return Engine(spec, None, url)


@pytest.mark.parametrize(("steps", "names"), [(7, ["iteration_000003.engine-2"]), (0, [])])
def test_an_engine_without_a_profiler_is_named_and_the_others_write_theirs(
    steps: int, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, int, bool]] = []
    ended: list[str] = []
    notes: list[str] = []

    def begin(url: str, key: str | None, folder: Path, name: str, steps: int, *, gpu: bool, **_: Any) -> None:
        if url == "http://a":
            raise CallError("http://a/start_profile: status 404")
        begun.append((name, steps, gpu))

    monkeypatch.setattr(engine_profiles, "begin_profile", begin)
    monkeypatch.setattr(engine_profiles, "end_profile", lambda url, key, **_: ended.append(url))
    members = [own("engine-0", "http://a"), own("engine-2", "http://b")]  # engine-1 has left
    profiles = EngineProfiles(fleet(members, notes, f"profile.engine_steps={steps}"))
    profiles.begin(tmp_path / "profile", 3)
    profiles.end()
    profiles.end()
    assert begun == [(name, steps, False) for name in names]
    assert ended == ["http://b"] * len(names)
    assert notes == ["no trace of http://a: http://a/start_profile: status 404"] * len(names)


def test_engines_of_others_are_called_by_their_place_in_the_configuration_or_by_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(
        engine_profiles, "begin_profile", lambda _url, _key, _folder, name, *_, **__: names.append(name)
    )
    given = "rollout.engine_urls=[http://a:1/,http://b:1]"
    members = [Engine(None, None, "http://b:1"), Engine(None, None, "http://c:1")]
    EngineProfiles(fleet(members, [], given)).begin(tmp_path, 1)
    assert sorted(names) == ["iteration_000001.engine-1", "iteration_000001.engine-c-1"]


def test_an_engine_that_ends_or_leaves_while_it_records_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    notes: list[str] = []
    monkeypatch.setattr(engine_profiles, "begin_profile", lambda *_, **__: None)
    monkeypatch.setattr(engine_profiles, "end_profile", lambda url, key, **_: ended.append(url))
    members = [own(f"engine-{number}", f"http://{number}") for number in range(3)]
    profiles = EngineProfiles(fleet(members, notes))
    profiles.begin(tmp_path, 1)
    members[0].is_back("http://0")
    del members[1]
    profiles.end()
    assert ended == ["http://2"]
    assert sorted(notes) == [
        "perhaps no trace of http://0: the engine ended while it recorded",
        "perhaps no trace of http://1: the engine left while it recorded",
    ]


def test_a_frozen_engine_holds_nobody_up_for_long_and_is_named_and_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_profiles._ANSWER_S <= 5.0
    monkeypatch.setattr(engine_profiles, "_ANSWER_S", 0.1)
    notes: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # it accepts connections, as a stopped process does
        url = f"http://127.0.0.1:{frozen.getsockname()[1]}"
        profiles = EngineProfiles(fleet([own("engine-0", url)], notes))
        profiles.begin(tmp_path, 1)
        profiles.end()
    assert notes == [
        f"perhaps no trace of {url}: {url}/{what}_profile: no answer within 0.1 s" for what in ("start", "stop")
    ]
