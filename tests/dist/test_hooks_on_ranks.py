"""Hooks of a user through the real trainer on two ranks: they give what the shipped ones that they imitate give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import driven
import pytest
from rank_pool import RankFailed, RankPool
from test_algorithms import assert_same

from rlscale.config.schema.algo_config import AlgoConfig, CustomLoss
from rlscale.config.schema.correction_config import CorrectionConfig, Level, WeightKind

UPPER = 0.1
"""The engine's log-probs of these batches are about 2 above the policy's."""
BOUNDS = {"eps_low": 0.001, "eps_high": 0.002}


def shipped() -> AlgoConfig:
    algo = driven.shipped("gspo")
    weights = CorrectionConfig(weight=WeightKind.tis, level=Level.token, upper=UPPER)
    return replace(algo, loss=replace(algo.loss, **BOUNDS), correction=weights)


def imitated() -> AlgoConfig:
    weights = {"_target_": "imitations.Truncated", "upper": UPPER}
    return replace(
        shipped(),
        loss=CustomLoss(function={"_target_": "imitations.gspo", **BOUNDS}),
        correction=CorrectionConfig(weight=WeightKind.custom, level=Level.token, function=weights),
    )


@pytest.mark.parametrize("dimension", ["data", "context"])
def test_a_loss_and_a_correction_give_what_the_shipped_ones_give(
    dimension: str, pool: RankPool, models: dict[str, Path]
) -> None:
    batches = [driven.segmented(shipped(), seed) for seed in range(2)]
    answers = []
    for algo in (shipped(), imitated()):
        spec = driven.spec_of(algo, models, parallel={dimension: 2})
        answers.append(pool.run(driven.train, spec, batches, world_size=2))
    for expected, got in zip(*answers, strict=True):
        for theirs, ours in zip(expected["iterations"], got["iterations"], strict=True):
            assert 0.0 < theirs["metrics"]["correction_mean"] < UPPER
            assert theirs["metrics"]["clip_fraction_low"] + theirs["metrics"]["clip_fraction_high"] > 0.05
            # What a hook's bounds are, nobody else knows.
            assert theirs["metrics"].pop("correction_outside") > 0.05
            assert ours["metrics"].pop("correction_outside") == 0.0
        assert_same(got, expected)


def test_a_loss_that_breaks_its_protocol_is_named_by_the_rank(pool: RankPool, models: dict[str, Path]) -> None:
    algo = replace(shipped(), loss=CustomLoss(function={"_target_": "imitations.no_gradient"}))
    spec = driven.spec_of(algo, models, parallel={"data": 2})
    with pytest.raises(RankFailed, match=r"UserError: algo\.loss\.function returned `loss` without gradient"):
        pool.run(driven.train, spec, [driven.segmented(algo)], world_size=2)
