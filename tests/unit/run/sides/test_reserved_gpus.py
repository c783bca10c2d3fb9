"""Each machine with engines is reserved whole, once, whichever of a run's fleets it has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rlscale.config.composition.compose import compose
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.placement import Layout, Slot
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.models_beside import ModelsBeside
from rlscale.run.sides.run_context import RunContext

NODES = ["a" * 56, "b" * 56, "c" * 56]


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """GPUs that were asked for, by the machine."""
    asked: dict[str, list[int]] = {node: [] for node in NODES}
    launcher = SimpleNamespace(
        whereabouts=SimpleNamespace(remote=lambda: None), call=SimpleNamespace(remote=lambda *_: None)
    )

    def options(scheduling_strategy: Any, num_gpus: int, **_: Any) -> Any:
        asked[scheduling_strategy.node_id].append(num_gpus)
        return SimpleNamespace(remote=lambda *_: launcher)

    monkeypatch.setattr(ray, "remote", lambda actor: SimpleNamespace(options=options))
    return asked


def test_a_machine_that_has_nothing_but_engines_that_evaluate_is_reserved_too(
    reserved: dict[str, list[int]], tmp_path: Path
) -> None:
    config = compose(None, ["cluster=node8"])
    layout = Layout((), (Slot(1, (0,)), Slot(1, (1,))))
    calls = Calls(StopSignal(), 1.0, str(tmp_path), 20.0)
    first = Engines(config, layout, NODES, calls, tmp_path, tmp_path, print)
    first.launch("model")
    assert first.machines == {0, 1}
    apart = Layout((), (Slot(1, (2,)), Slot(2, (0,)), Slot(2, (1,))))
    second = Engines(config, apart, NODES, calls, tmp_path, tmp_path, print, reserved=first.machines)
    second.launch("model")
    assert reserved == {NODES[0]: [8, 0], NODES[1]: [8, 0], NODES[2]: [8]}


def test_a_machine_of_two_models_beside_the_policy_is_reserved_by_the_first(
    reserved: dict[str, list[int]], tmp_path: Path
) -> None:
    given = [f"rollout.models.{name}.follows_policy=true" for name in ("judge", "other")]
    config = compose(None, ["cluster=node8", *given])
    beside = {"judge": (Slot(1, (0,)),), "other": (Slot(1, (1,)), Slot(2, (0,)))}
    layout = Layout((), (), beside=beside)
    calls = Calls(StopSignal(), 1.0, str(tmp_path), 20.0)
    context = RunContext(layout, NODES, calls, tmp_path, tmp_path, print, Forks())
    models = ModelsBeside(config, context, frozenset({0}))
    models.launch("model")
    # The machine of a router is the first, which the policy's fleet reserved.
    assert reserved == {NODES[0]: [0, 0], NODES[1]: [8, 0], NODES[2]: [8]}
