"""A batch field of a user's own: one line registers it, samples bring it, a loss reads it on every rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import driven
import numpy as np
import pytest
from own_field import STRENGTH
from rank_pool import RankPool
from test_algorithms import assert_same
from training_data import make_algo

from rlscale.config.schema.algo_config import AlgoConfig, CustomLoss
from rlscale.data.batches.batch import Batch
from rlscale.data.sample import Group, Prompt, Sample


def algo() -> AlgoConfig:
    return make_algo(CustomLoss(function={"_target_": "own_field.strengthened"}))


def collected(strength: float | None = None) -> Batch:
    """A batch as a rollout gives it, of ragged samples; by default their tokens' strengths differ."""
    draw = np.random.default_rng(5)
    groups = []
    for index in range(3):
        prompt = Prompt(index, str(index), draw.integers(0, 64, 3).astype(np.int32), "")
        samples = []
        for number in range(4):
            length = int(draw.integers(1, 20))
            logprobs = (-4 * draw.random(length)).astype(np.float32)
            tokens = draw.integers(0, 64, length).astype(np.int32)
            sample = Sample.from_response(prompt, number, tokens, logprobs, version=0)
            sample.reward = float(draw.random())
            own = draw.random(3 + length)
            sample.columns[STRENGTH.name] = own if strength is None else np.full(3 + length, strength)
            samples.append(sample)
        groups.append(Group(prompt, samples))
    return Batch.from_groups(groups)


@pytest.fixture(scope="module")
def alone(pool: RankPool, models: dict[str, Path]) -> dict[str, Any]:
    answer: dict[str, Any] = pool.run(driven.train, driven.spec_of(algo(), models), [collected()], world_size=1)[0]
    return answer


@pytest.mark.parametrize("dimension", ["data", "context"])
def test_two_ranks_read_the_column_as_one_does(
    dimension: str, alone: dict[str, Any], pool: RankPool, models: dict[str, Path]
) -> None:
    spec = driven.spec_of(algo(), models, parallel={dimension: 2})
    for got in pool.run(driven.train, spec, [collected()], world_size=2):
        assert_same(got, alone)


def test_the_gradient_is_as_strong_as_the_column_says(
    alone: dict[str, Any], pool: RankPool, models: dict[str, Path]
) -> None:
    spec = driven.spec_of(algo(), models)
    whole, double = (
        pool.run(driven.train, spec, [collected(strength)], world_size=1)[0]["gradients"] for strength in (1.0, 2.0)
    )
    for name, gradient in whole.items():
        np.testing.assert_allclose(double[name], 2 * gradient, rtol=1e-4, atol=1e-7)
    assert any(not np.allclose(gradient, whole[name], rtol=1e-2) for name, gradient in alone["gradients"].items())
