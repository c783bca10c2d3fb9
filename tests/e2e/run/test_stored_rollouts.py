"""A run stores its rollouts, another trains on them without engines and ends with the same weights, bit by bit; a third
generates without a trainer, and what it stores can be trained on, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from rlscale.data.rollout_file import read_groups
from rlscale.data.stored_rollouts import StoredRollouts
from tests.e2e.run.command import SHORT, run

QUIET = (*SHORT, "eval.enabled=false", "checkpoint.every=0")


def test_a_replay_trains_the_same_weights_and_generating_needs_no_trainer(ready: list[str], tmp_path: Path) -> None:
    # This one starts everything itself; the others are forked, so what they share with it does not depend on that.
    first = run(tmp_path, *QUIET, "run.output=first", "rollout.store=all")
    assert first.code == 0, first.text

    again = run(tmp_path, *QUIET, "run.output=again", f"rollout.replay={tmp_path / 'first'}", *ready)
    assert again.code == 0, again.text
    assert "engines: 0" in again.text
    assert not list((tmp_path / "again" / "logs").glob("engine-*"))
    ours, theirs = (load_file(tmp_path / name / "hf" / "model.safetensors") for name in ("first", "again"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)

    rescored = run(tmp_path, "rescore", "run.output=first", "reward=none")
    assert rescored.code == 0, rescored.text
    assert "all: 32 samples, reward" in rescored.text
    assert "-> 0.0000" in rescored.text

    given = ["run.output=alone", "rollout.store=all", "run.generate_only=true", "run.iterations=3"]
    alone = run(tmp_path, *QUIET, *given, *ready)
    assert alone.code == 0, alone.text
    assert not list((tmp_path / "alone" / "logs").glob("rank-*"))
    stored = StoredRollouts(tmp_path / "alone", "")
    assert stored.iterations == [1, 2, 3]
    # The weights are those that the first run began with, so its first batch is the same.
    file = Path("rollouts") / "iteration_000001.parquet"
    one, other = (read_groups(tmp_path / name / file) for name in ("first", "alone"))
    assert [s.tokens.tolist() for g in one for s in g.samples] == [s.tokens.tolist() for g in other for s in g.samples]
    assert {int(v) for n in (1, 3) for g in stored.groups(n) for s in g.samples for v in s.versions} == {-1, 0}
