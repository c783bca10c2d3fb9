"""What the parts of a run are told of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.run.assembly import Assembly
from rlscale.run.disk.checkpoint import groups_of
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.processes.stop_signal import StopSignal


def journal(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[str, int]:
    """Where the rollout of such a run writes finished groups, and how many versions ahead."""
    config = compose(None, list(overrides))
    bare = RolloutSpec(config.rollout, config.reward, config.data, config.eval, seed=0, tokenizer_folder="")
    monkeypatch.setattr(RolloutSpec, "of", staticmethod(lambda config, model: bare))
    nobody: Any = None
    assembly = Assembly(config, RunFolder(folder), StopSignal(), nobody, nobody)
    assembly._model = folder
    spec = assembly._rollout_spec(config)
    return spec.journal, spec.journal_ahead


def test_the_rollout_writes_finished_groups_where_the_checkpoints_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = str(groups_of(RunFolder(tmp_path).checkpoints))
    assert journal(tmp_path, monkeypatch, "rollout.max_staleness=2") == (expected, 2)


@pytest.mark.parametrize("override", ["checkpoint.finished_groups=false", "run.generate_only=true"])
def test_it_writes_none_where_that_is_not_wanted_or_would_never_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    assert journal(tmp_path, monkeypatch, override)[0] == ""
