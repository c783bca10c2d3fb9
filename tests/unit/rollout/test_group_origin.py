"""Finished groups are of the data, the rewards and the code that they were made by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlscale.config.schema.data_config import ArithmeticData
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.configured_source import training_source
from rlscale.rollout.group_origin import origin_of
from rlscale.rollout.rollout_spec import RolloutSpec


def origin(spec: RolloutSpec) -> bytes:
    return origin_of(spec, training_source(spec.data))


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: replace(spec, data=ArithmeticData(max_number=30)),
        lambda spec: replace(spec, reward=replace(spec.reward, crash_score=-1.0)),
        lambda spec: replace(spec, reward=RewardConfig(function={"_target_": "my_module.my_reward"})),
        lambda spec: replace(spec, env={"_target_": "my_module.MyEnv"}),
    ],
)
def test_other_data_and_other_rewards_are_another_origin(
    spec: RolloutSpec, change: Callable[[RolloutSpec], RolloutSpec]
) -> None:
    assert origin(spec) == origin(spec)
    assert origin(change(spec)) != origin(spec)


def test_how_rewards_are_computed_is_none(spec: RolloutSpec) -> None:
    assert origin(replace(spec, reward=replace(spec.reward, timeout_s=99.0, workers=3))) == origin(spec)


def test_a_reward_that_was_mended_is_another_origin(
    spec: RolloutSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mended_reward.py"
    own = replace(spec, reward=RewardConfig(function={"_target_": "mended_reward.score"}))
    file.write_text("def score(response, label, info):\n    return 0.0\n")
    before = origin(own)
    file.write_text("def score(response, label, info):\n    return 1.0\n")
    assert origin(own) != before
