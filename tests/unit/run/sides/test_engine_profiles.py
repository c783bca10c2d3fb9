"""Which engines are asked for traces, and what becomes of one that has none. A real one writes in tests/e2e/serve."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.run.sides import engine_profiles
from rlscale.run.sides.engine_profiles import EngineProfiles
from rlscale.serve.http import CallError


@pytest.mark.parametrize(("steps", "names"), [(7, ["iteration_000003.engine-1"]), (0, [])])
def test_an_engine_without_a_profiler_is_named_and_the_others_write_theirs(
    steps: int, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, int, bool]] = []
    ended: list[str] = []
    notes: list[str] = []

    def begin(url: str, key: str | None, folder: Path, name: str, steps: int, *, gpu: bool) -> None:
        if url == "http://a":
            raise CallError("http://a/start_profile: status 404")
        begun.append((name, steps, gpu))

    monkeypatch.setattr(engine_profiles, "begin_profile", begin)
    monkeypatch.setattr(engine_profiles, "end_profile", lambda url, key: ended.append(url))
    config = compose(None, [f"profile.engine_steps={steps}"])
    engines: Any = SimpleNamespace(config=config, urls=["http://a", "http://b"], api_key="", note=notes.append)
    profiles = EngineProfiles(engines)
    profiles.begin(tmp_path / "profile", 3)
    profiles.end()
    profiles.end()
    assert begun == [(name, steps, False) for name in names]
    assert ended == ["http://b"] * len(names)
    assert notes == ["no trace of http://a: http://a/start_profile: status 404"] * len(names)
