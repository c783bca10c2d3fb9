"""The recipes of environments besides `calculator`, some iterations of each without its warm start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.run.command import SHORT, metrics, run, summary
from tests.extras.extra_packages import extra_folder

QUIET = (*SHORT, "eval.enabled=false", "checkpoint.every=0", "run.output=run")


def test_sums_get_easier_for_a_policy_that_solves_none(tmp_path: Path, shared: list[str]) -> None:
    source = ["data.source.window=4", "data.source.easier=0"]
    ended = run(tmp_path, "recipe=adaptive_arithmetic", *QUIET, *source, "run.iterations=3", *shared)
    assert ended.code == 0, ended.text
    trained = metrics(tmp_path / "run")
    # Every group is one of four at its level, none of which is solved: the next four are a level below.
    assert [line["difficulty"] for line in trained] == [8.0, 7.0, 6.0]
    assert {line["reward"] for line in trained} == {0.0}


def test_a_function_in_c_is_tried_and_answered_turn_by_turn(tmp_path: Path, ready: list[str]) -> None:
    small = ["rollout.groups_per_iteration=2", "rollout.samples_per_group=2", "rollout.max_turn_tokens=32"]
    ended = run(tmp_path, "recipe=kernel_c", *QUIET, *small, *ready)
    assert ended.code == 0, ended.text
    for line in metrics(tmp_path / "run"):
        # What a model that has read no C says is never a function, and it is told so after each turn but the last.
        assert line["turns"] == line["turns_max"] == 3
        assert 0 < line["observed_share"] < 1
        assert line["reward"] == line["reward_part/correct"] == 0.0
    assert 0 < summary(tmp_path / "run")["logprob_diff_max"] < 1e-4


def test_words_spelled_backward_are_made_and_judged_in_processes_of_their_own(tmp_path: Path, ready: list[str]) -> None:
    # What lies in a run's folder can be imported: reasoning-gym, or a package of somebody's own where it cannot be had.
    try:
        found, own = list(extra_folder().iterdir()), list[str]()
    except pytest.skip.Exception:
        found, own = [Path(__file__).with_name("own_problems.py")], ["data.source.maker._target_=own_problems.Spelling"]
    for path in found:
        (tmp_path / path.name).symlink_to(path)
    adapting = ["data.source.window=2", "data.source.easier=0", "data.source.fall=0", "data.source.level=1"]
    ended = run(tmp_path, "recipe=reasoning_gym", *QUIET, *own, *adapting, *ready)
    assert ended.code == 0, ended.text
    first, second = metrics(tmp_path / "run")
    assert first["difficulty"] == 1.0
    assert second["difficulty"] == 0.0
    assert first["reward"] == second["reward"] == 0.0
    assert first["failed_rewards"] == second["failed_rewards"] == 0
