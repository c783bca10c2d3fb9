"""Seeds, failure rates and pass@k."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.evaluation import EvalPrompts, pass_at_k, summarize
from rlscale.rollout.failures import FailureRate
from rlscale.rollout.seeds import request_seed


def test_seeds_are_stable_numbers_of_31_bits() -> None:
    # Written down: a change would break the repetition of every earlier run.
    assert request_seed(0, 0, 0) == 685561823
    seeds = {request_seed(0, prompt, sample) for prompt in range(100) for sample in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_seeds_differ_by_run_turn_and_stream() -> None:
    assert len({request_seed(1, 2, 3), request_seed(2, 2, 3), request_seed(1, 2, 3, 1)}) == 3
    assert request_seed(1, 2, 3) != request_seed(1, 2, 3, stream="eval")


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


def test_failures_are_counted_against_the_last_window_only() -> None:
    rate = FailureRate("rewards", "reward.max_failure_rate", 0.2, 10)
    for _ in range(20):
        for _ in range(4):
            rate.success()
        rate.failure("x")
    assert rate.total == 20
    # Two of the last ten failed, which is allowed; the oldest of the ten was a success.
    with pytest.raises(UserError, match=r"3 of the last 10 rewards failed, .*max_failure_rate=0.2 of 10 .*: why"):
        rate.failure("why")


def test_with_a_bound_of_zero_the_first_failure_is_one_too_many() -> None:
    with pytest.raises(UserError, match="1 of the last 1"):
        FailureRate("requests", "k", 0.0, 10).failure("x")
