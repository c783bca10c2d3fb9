"""A mixture of experts whose training passes repeat the engine's choice of experts, through the command line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.e2e.run.command import SHORT, metrics, only_run, run, summary
from tests.e2e.run.exported import check_exported
from tests.e2e.shared_server import EXPERTS

pytestmark = pytest.mark.timeout(300)

REWARD = "def varied(response, label, info):\n    return sum(map(ord, response)) % 8 / 8\n"
"""A reward that tells the samples of a model apart that cannot calculate yet."""


def test_the_experts_that_the_engine_chose_are_those_that_are_trained(ready: list[str], tmp_path: Path):
    """Two steps per iteration on an engine of its own, which the run starts so that it says what it chose."""
    (tmp_path / "varied.py").write_text(REWARD)
    given = [*(f"model.create.architecture.{key}={value}" for key, value in EXPERTS.items())]
    given += ["reward=custom", "reward.function._target_=varied.varied", "checkpoint.every=0"]
    given += ["algo.steps_per_iteration=2", "trainer.routing_replay=rollout"]
    ended = run(tmp_path, *SHORT, *given, *ready)
    assert ended.code == 0, ended.text
    folder = only_run(tmp_path)
    lines, made = metrics(folder), summary(folder)
    assert [line["iteration"] for line in lines] == [1, 2]
    for line in lines:
        assert (line["steps"], line["skipped_steps"]) == (2, 0)
        assert line["grad_norm"] > 0
        assert line["ratio_max_first_step"] == 1.0
        assert line["ppo_kl_first_step"] == 0.0
        assert 0 < line["logprob_diff_max"] < 1e-4
        # Every token but the last of each sample, which the engine was never given.
        assert line["routing_replayed"] == pytest.approx(1 - line["samples"] / line["batch_tokens"])
        assert 1 <= line["expert_load_max"] <= EXPERTS["num_experts"]
        assert 0 <= line["expert_load_idle"] < 1
    # In the second step of an iteration the weights are others, and so is the choice that was not made.
    assert all(0 < line["routing_changed"] < 0.2 for line in lines)
    assert (made["status"], made["samples_failed"]) == ("finished", 0)
    assert made["canary_diff_max"] < 1e-4
    assert math.isfinite(made["eval_after"])
    check_exported(folder / "hf")
