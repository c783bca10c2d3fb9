"""A session without a trainer: iterations count without a step, checkpoints are whole without ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.ledger import LedgerError
from rlscale.run.disk.checkpoint import load_progress
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sessions.generating_session import GeneratingSession
from rlscale.run.sessions.session import SessionParts
from rlscale.run.sides.engine_side import SteadyEngines


class Records:
    """Remembers what was said and shown."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.metrics: list[dict[str, float]] = []
        self.ended = False

    def span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def begin_loop(self, state: Any) -> None: ...
    def update_counters(self, state: Any) -> None: ...
    def rollouts(self, iteration: int, groups: list[Group]) -> None: ...

    def iteration(self, state: Any, metrics: dict[str, float]) -> None:
        self.metrics.append(metrics)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def end_loop(self, measured: Any) -> None:
        self.ended = True


class GroupSource:
    """A rollout whose state is a number, and which remembers the weights that it was to generate with."""

    def __init__(self) -> None:
        self.position = 0
        self.resumed: list[int] = []
        self.lost = False

    def resume(self, version: int) -> None:
        self.resumed.append(version)

    def state_dict(self, *, trained: bool) -> dict[str, Any]:
        if self.lost:
            raise LedgerError("prompts: 2 drawn, but trained 1 = 1")
        return {"position": self.position, "trained": trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def session(folder: RunFolder) -> tuple[GeneratingSession, GroupSource, Records]:
    config = compose(None, ["run.generate_only=true", "rollout.store=all", "run.iterations=2", "checkpoint.every=1"])
    source, records, none = GroupSource(), Records(), None
    parts: Any = (config, "hash", folder, none, StopSignal(), source, records)
    engines: Any = SimpleNamespace(restarts_of={"http://127.0.0.1:7": 2})
    return GeneratingSession(SessionParts(*parts), SteadyEngines(engines, none)), source, records


def group() -> Group:
    prompt = Prompt(index=0, id="0", tokens=np.arange(2, dtype=np.int32), label=None)
    sample = Sample.from_response(prompt, 0, np.arange(3, dtype=np.int32), np.zeros(3, np.float32), version=0)
    sample.reward = 1.0
    return Group(prompt, [sample])


def test_an_iteration_without_a_step_is_saved_whole_and_gone_on_from(tmp_path: Path) -> None:
    run, source, records = session(RunFolder(tmp_path))
    run.begin()
    source.position = 5
    run.train([group()])
    run.record()
    run.go_on()
    assert (run.state.iteration, run.state.version, run.state.steps) == (1, 0, 0)
    assert records.metrics[0]["reward"] == 1.0
    assert records.metrics[0]["engine_restarts/127.0.0.1:7"] == 2.0
    (whole,) = (tmp_path / "checkpoints").glob("iteration_*")
    assert load_progress(whole).iteration == 1
    assert not (whole / "trainer").exists()

    again, source, records = session(RunFolder(tmp_path, resumed=True))
    again.begin()
    assert (again.state.iteration, source.position, source.resumed) == (1, 5, [0])
    assert records.notes == [f"continuing from iteration 1 ({whole})"]
    again.train([group()])
    again.go_on()
    assert source.resumed == [0], "nothing is left to generate for"


def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path: Path) -> None:
    run, _, _ = session(RunFolder(tmp_path))
    run.begin()
    run.train([group()])
    run.record()
    (state,) = (tmp_path / "checkpoints").glob("iteration_*/rollout.state")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    again, _, records = session(RunFolder(tmp_path, resumed=True))
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        again.begin()
    assert "rollout.state is not what was written" in records.notes[0]


@pytest.mark.parametrize("lost", [False, True])
def test_the_accounts_are_drawn_up_at_the_end(tmp_path: Path, lost: bool) -> None:
    run, source, records = session(RunFolder(tmp_path))
    source.lost = lost
    with pytest.raises(LedgerError) if lost else nullcontext():
        run.end()
    assert records.ended is not lost
