"""What the configuration says of engines reaches the program that serves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rlscale.config.composition.compose import compose
from rlscale.run.processes.placement import Layout, Slot
from rlscale.run.processes.remote_calls import Calls, StopSignal
from rlscale.run.sides.engines import Engines
from rlscale.serve.server_spec import ServerSpec, engine_order


@pytest.mark.parametrize("asked", [False, True])
def test_engines_quantise_activations_where_the_run_asks_for_it(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs: list[ServerSpec] = []

    def call(verb: str, *arguments: Any) -> None:
        specs.extend(argument for argument in arguments if verb == "start_engine")

    remote = SimpleNamespace(remote=call)
    launcher = SimpleNamespace(whereabouts=SimpleNamespace(remote=lambda: None), call=remote)
    actor = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: launcher))
    monkeypatch.setattr(ray, "remote", lambda _: actor)
    config = compose(None, ["rollout.weights=mxfp8", f"rollout.quantised_activations={asked}"])
    calls = Calls(StopSignal(), 1.0, str(tmp_path), 20.0)
    (tmp_path / "config.json").write_text("{}")
    engines = Engines(config, Layout((), (Slot(0, ()),)), ["a" * 56], calls, tmp_path, tmp_path, print)
    engines.launch(str(tmp_path))
    assert [engine_order(spec, 1, "key")["quantised_activations"] for spec in specs] == [asked]
