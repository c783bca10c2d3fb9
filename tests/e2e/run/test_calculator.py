"""The recipe `calculator`, shortened: a policy of two turns, from its warm start to the evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.run.command import metrics, only_run, run, summary

pytestmark = pytest.mark.timeout(300)

STAGE = """
defaults:
  - calculator_sft
  - _self_
run:
  iterations: 120
"""
RECIPE = """
defaults:
  - calculator
  - _self_
warm_start:
  recipe: stage.yaml
rollout:
  groups_per_iteration: 16
eval:
  prompts: 32
  every: 0
checkpoint:
  every: 0
run:
  iterations: 2
"""


def test_it_asks_and_goes_on_behind_what_it_is_told(tmp_path: Path, shared: list[str]) -> None:
    (tmp_path / "stage.yaml").write_text(STAGE)
    (tmp_path / "short.yaml").write_text(RECIPE)
    ended = run(tmp_path, "recipe=short.yaml", *shared)
    assert ended.code == 0, ended.text
    made, lines = summary(only_run(tmp_path)), metrics(only_run(tmp_path))
    first, _ = (line for line in lines if "reward" in line)
    assert 1 < first["turns"] < first["turns_max"] == 2  # some ask, and nobody may ask twice
    assert first["segments"] == first["segment_duplication"] == 1
    assert 0 < first["observed_share"] < 0.5
    # What the engine sampled behind the calculator's answer has the log-probs that the trainer computes.
    assert 0 < made["logprob_diff_max"] < 1e-4
    assert first["ratio_max_first_step"] == 1.0
