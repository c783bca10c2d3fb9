"""What an evaluation says of its samples: pass@k, means, and what failed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.evaluation import EvalPrompts, pass_at_k, summarize


@pytest.mark.parametrize(("samples", "k"), [(4, 1), (4, 2), (5, 3), (3, 3)])
def test_pass_at_k_is_the_share_of_draws_of_k_that_hold_a_solution(samples: int, k: int) -> None:
    for solved in range(samples + 1):
        outcomes = [1] * solved + [0] * (samples - solved)
        draws = list(itertools.combinations(outcomes, k))
        assert pass_at_k(solved, samples, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="pass@3 needs at least 3 samples"):
        pass_at_k(1, 2, 3)


def evaluated(*rewards: list[float]) -> list[Group]:
    groups = []
    for index, values in enumerate(rewards):
        prompt = Prompt(index, str(index), np.array([1], np.int32), None)
        samples = [
            Sample.from_response(prompt, i, np.array([2] * (i + 1), np.int32), None, 0) for i in range(len(values))
        ]
        for sample, value in zip(samples, values, strict=True):
            sample.reward = value
        groups.append(Group(prompt, samples))
    return groups


def test_an_evaluation_averages_over_prompts_and_leaves_failed_samples_out() -> None:
    config = EvalConfig(samples_per_prompt=2, pass_k=[1, 2])
    result = summarize(config, evaluated([1.0, 0.0], [1.0], [0.0, 0.0], []), EvalPrompts([], 3, 2), version=7, keep=1)
    assert result.pass_at_1 == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert result.pass_at_k[2] == pytest.approx(0.5)  # the prompt with one sample left has no pass@2
    assert result.mean_reward == pytest.approx(2 / 5)
    assert result.mean_length == pytest.approx((1 + 2 + 1 + 1 + 2) / 5)
    assert (result.prompts, result.samples, result.failures, result.dropped, result.version) == (3, 5, 3, 3, 7)
    assert len(result.groups) == 1


def test_an_evaluation_without_any_sample_is_an_error() -> None:
    with pytest.raises(UserError, match="every sample of the evaluation failed"):
        summarize(EvalConfig(), evaluated([], []), EvalPrompts([], 0, None), 0, 1)
