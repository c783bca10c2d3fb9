"""Rewards per token, returns and generalised advantages: along a trajectory of trainable tokens."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rlscale.algo.advantages import gae, returns, reward_tokens
from rlscale.algo.losses import clip
from rlscale.algo.trajectories import Trajectories
from tests.unit.algo.ragged import Ragged, ragged
from tests.unit.algo.test_trajectories import trainable_tokens

SAMPLE = np.array([1, 0, 1])
LENGTHS = np.array([3, 1, 2])
MASK = np.array([True, False, True, True, True, False])
TRAJECTORIES = Trajectories.of(SAMPLE, LENGTHS, MASK)
"""Sample 1: tokens 0, 2, 4, with observations between and after; sample 0: token 3."""


def random_columns(data: Ragged, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random rewards per token and values, nonsense at masked tokens included."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=data.mask.shape), draw.normal(size=data.mask.shape)


def of(data: Ragged) -> Trajectories:
    return Trajectories.of(data.sample, data.lengths, data.mask)


def gae_by_definition(
    data: Ragged, rho: NDArray[np.float64], values: NDArray[np.float64], gamma: float, lam: float
) -> NDArray[np.float64]:
    """The exponentially weighted mean of the k-step advantages (arXiv 1506.02438, eqs. 11-16), token by token.

    A(k) = rho_t + .. + gamma^(k-1) rho_{t+k-1} + gamma^k V_{t+k} - V_t. From the end on all k-step advantages are the
    same, so that their weights add up to the lam^(n-1) that is left.
    """
    advantages = np.zeros(len(rho))
    for sample in range(len(data.rewards)):
        tokens = trainable_tokens(data, sample)
        for place, token in enumerate(tokens):
            left = len(tokens) - place
            for k in range(1, left + 1):
                ahead = sum(gamma**j * rho[tokens[place + j]] for j in range(k))
                bootstrap = gamma**k * values[tokens[place + k]] if k < left else 0.0
                weight = (1.0 - lam) * lam ** (k - 1) if k < left else lam ** (left - 1)
                advantages[token] += weight * (ahead + bootstrap - values[token])
    return advantages


def test_the_score_is_at_the_last_trainable_token_and_kl_at_every_one() -> None:
    kl = np.array([1.0, 50.0, 2.0, -4.0, 0.0, 50.0])
    rho = reward_tokens(np.array([10.0, 20.0]), kl, 0.5, TRAJECTORIES)
    np.testing.assert_allclose(rho, [-0.5, 0.0, -1.0, 12.0, 20.0, 0.0], rtol=1e-15)


def test_without_kl_only_the_last_trainable_token_is_rewarded() -> None:
    rho = reward_tokens(np.array([10.0, 20.0]), None, 0.5, TRAJECTORIES)
    np.testing.assert_array_equal(rho, [0.0, 0.0, 0.0, 10.0, 20.0, 0.0])


@pytest.mark.parametrize("seed", range(4))
def test_reward_tokens_agree_with_a_walk_through_the_rows(seed: int) -> None:
    data = ragged(seed)
    expected = np.zeros(len(data.mask))
    for sample in range(len(data.rewards)):
        tokens = trainable_tokens(data, sample)
        for token in tokens:
            expected[token] = -0.3 * (data.old[token] - data.ref[token])
        if tokens:
            expected[tokens[-1]] += data.rewards[sample]
    rho = reward_tokens(data.rewards, data.old - data.ref, 0.3, of(data))
    np.testing.assert_allclose(rho, expected, rtol=1e-13)


def test_returns_by_hand() -> None:
    rho = np.array([1.0, 70.0, -2.0, 3.0, 8.0, 70.0])
    # Sample 1: 8; -2 + 8 / 2 = 2; 1 + 2 / 2 = 2.
    np.testing.assert_array_equal(returns(rho, TRAJECTORIES, gamma=0.5), [2.0, 0.0, 2.0, 3.0, 8.0, 0.0])


def test_gae_by_hand() -> None:
    rho = np.array([1.0, 70.0, -2.0, 3.0, 8.0, 70.0])
    values = np.array([4.0, 30.0, 2.0, 5.0, 6.0, 30.0])
    # gamma 0.5, lam 0.5. Sample 1: deltas 1 + 1 - 4 = -2; -2 + 3 - 2 = -1; 8 - 6 = 2 (the value after it is 0);
    # advantages 2; -1 + 2 / 4 = -0.5; -2 - 0.5 / 4 = -2.125. Sample 0: 3 - 5.
    advantages, targets = gae(rho, values, TRAJECTORIES, gamma=0.5, lam=0.5)
    np.testing.assert_array_equal(advantages, [-2.125, 0.0, -0.5, -2.0, 2.0, 0.0])
    np.testing.assert_array_equal(targets, [1.875, 0.0, 1.5, 3.0, 8.0, 0.0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_returns_agree_with_the_double_sum_on_ragged_input(seed: int, gamma: float) -> None:
    data = ragged(seed)
    rho, _ = random_columns(data, seed)
    expected = np.zeros(len(rho))
    for sample in range(len(data.rewards)):
        tokens = trainable_tokens(data, sample)
        for t, token in enumerate(tokens):
            expected[token] = sum(gamma ** (s - t) * rho[tokens[s]] for s in range(t, len(tokens)))
    np.testing.assert_allclose(returns(rho, of(data), gamma=gamma), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.9, 0.0)])
def test_gae_agrees_with_the_mean_of_k_step_advantages_on_ragged_input(seed: int, gamma: float, lam: float) -> None:
    data = ragged(seed)
    rho, values = random_columns(data, seed)
    expected = gae_by_definition(data, rho, values, gamma, lam)
    advantages, targets = gae(rho, values, of(data), gamma=gamma, lam=lam)
    np.testing.assert_allclose(advantages, expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(targets, np.where(data.mask, expected + values, 0.0), rtol=1e-11, atol=1e-13)


def test_float32_values_are_added_up_in_float64() -> None:
    data = ragged(0)
    rho, values = random_columns(data)
    values32 = values.astype(np.float32)
    result = gae(rho, values32, of(data), gamma=0.9, lam=0.8)
    for got, expected in zip(result, gae(rho, values32.astype(np.float64), of(data), gamma=0.9, lam=0.8), strict=True):
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_ppo_with_a_zero_critic_and_lambda_one_is_reinforce_with_returns(gamma: float) -> None:
    data = ragged(3)
    rho, _ = random_columns(data)
    trajectories = of(data)
    advantages, targets = gae(rho, np.zeros(len(rho)), trajectories, gamma=gamma, lam=1.0)
    expected = returns(rho, trajectories, gamma=gamma)
    np.testing.assert_allclose(advantages, expected, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(targets, expected, rtol=1e-14, atol=1e-15)
    # On policy PPO's gradient is REINFORCE's: that of -return * log-prob.
    lp = torch.from_numpy(data.old).requires_grad_()
    clip(lp, lp.detach(), torch.from_numpy(advantages), eps_low=0.2, eps_high=0.2).loss.sum().backward()
    assert lp.grad is not None
    np.testing.assert_allclose(lp.grad, -expected, rtol=1e-14, atol=1e-15)


def test_lambda_one_is_the_return_less_the_value_whatever_the_critic_says() -> None:
    data = ragged(3)
    rho, values = random_columns(data)
    advantages, targets = gae(rho, values, of(data), gamma=0.9, lam=1.0)
    expected = returns(rho, of(data), gamma=0.9)
    np.testing.assert_allclose(targets, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(advantages, np.where(data.mask, expected - values, 0.0), rtol=1e-12, atol=1e-13)


def test_lambda_zero_is_the_one_step_temporal_difference() -> None:
    data = ragged(5)
    rho, values = random_columns(data)
    expected = np.zeros(len(rho))
    for sample in range(len(data.rewards)):
        tokens = trainable_tokens(data, sample)
        for here, after in pairwise(tokens):
            expected[here] = rho[here] + 0.9 * values[after] - values[here]
        if tokens:
            expected[tokens[-1]] = rho[tokens[-1]] - values[tokens[-1]]
    advantages, _ = gae(rho, values, of(data), gamma=0.9, lam=0.0)
    np.testing.assert_allclose(advantages, expected, rtol=1e-13, atol=1e-15)


def test_a_perfect_critic_of_a_certain_outcome_leaves_no_advantage() -> None:
    # Score 2 at the end, gamma 0.5: the value of a token is 2 * 0.5^(tokens left after it).
    values = np.array([0.5, -9.0, 1.0, 1.0, 2.0, -9.0])
    rho = reward_tokens(np.array([1.0, 2.0]), None, 0.0, TRAJECTORIES)
    for lam in (0.0, 0.7, 1.0):
        advantages, targets = gae(rho, values, TRAJECTORIES, gamma=0.5, lam=lam)
        np.testing.assert_array_equal(advantages, np.zeros(6))
        np.testing.assert_array_equal(targets, np.where(MASK, values, 0.0))


@pytest.mark.parametrize("filler", [0.0, 1e6, math.nan, math.inf])
def test_values_and_rewards_at_observation_tokens_change_nothing(filler: float) -> None:
    data = ragged(2)
    rho, values = random_columns(data)
    expected = gae(rho, values, of(data), gamma=0.9, lam=0.8)
    rho2, values2 = np.where(data.mask, rho, filler), np.where(data.mask, values, filler)
    for got, unchanged in zip(gae(rho2, values2, of(data), gamma=0.9, lam=0.8), expected, strict=True):
        np.testing.assert_array_equal(got, unchanged)
    np.testing.assert_array_equal(returns(rho2, of(data), gamma=0.9), returns(rho, of(data), gamma=0.9))
    polluted = reward_tokens(data.rewards, rho2, 0.5, of(data))
    np.testing.assert_array_equal(polluted, reward_tokens(data.rewards, rho, 0.5, of(data)))


@pytest.mark.parametrize("seed", range(4))
def test_advantages_are_the_same_when_the_observation_tokens_are_not_there(seed: int) -> None:
    data = ragged(seed)
    rho, values = random_columns(data)
    kept = np.bincount(data.row_of_token[data.mask], minlength=len(data.lengths))
    without = Trajectories.of(data.sample, kept, np.ones(int(kept.sum()), dtype=bool))
    with_them = gae(rho, values, of(data), gamma=0.9, lam=0.8)
    for got, full in zip(gae(rho[data.mask], values[data.mask], without, gamma=0.9, lam=0.8), with_them, strict=True):
        np.testing.assert_array_equal(got, full[data.mask])


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_samples_and_the_cut_into_segments_do_not_matter(seed: int) -> None:
    data = ragged(seed)
    rho, values = random_columns(data)
    whole = gae(rho, values, of(data), gamma=0.9, lam=0.8)[0]
    # All rows of the last sample first, then those of the one before, ...; each sample as one segment.
    samples = len(data.rewards)
    order = [
        t
        for s in reversed(range(samples))
        for row in np.flatnonzero(data.sample == s)
        for t in range(data.offsets[row], data.offsets[row + 1])
    ]
    lengths = np.array([data.lengths[data.sample == s].sum() for s in reversed(range(samples))])
    joined = Trajectories.of(np.arange(samples)[::-1], lengths, data.mask[order])
    np.testing.assert_array_equal(gae(rho[order], values[order], joined, gamma=0.9, lam=0.8)[0], whole[order])


def test_a_sample_of_one_trainable_token_has_its_score_less_its_value_as_advantage() -> None:
    trajectories = Trajectories.of(np.array([0]), np.array([3]), np.array([False, True, False]))
    rho = reward_tokens(np.array([7.0]), np.array([9.0, 2.0, 9.0]), 0.5, trajectories)
    advantages, targets = gae(rho, np.array([9.0, 1.0, 9.0]), trajectories, gamma=0.9, lam=0.9)
    assert advantages.tolist() == [0.0, 5.0, 0.0]
    assert targets.tolist() == [0.0, 6.0, 0.0]


def test_nothing_trainable_gives_zeros() -> None:
    trajectories = Trajectories.of(np.array([0, 1]), np.array([2, 1]), np.zeros(3, dtype=bool))
    rho = reward_tokens(np.array([1.0, 1.0]), np.ones(3), 1.0, trajectories)
    advantages, targets = gae(rho, np.ones(3), trajectories, gamma=1.0, lam=1.0)
    for column in (rho, advantages, targets, returns(rho, trajectories, gamma=1.0)):
        assert column.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_kl_of_a_hundred_per_token_stays_finite_over_a_long_sample(difference: float) -> None:
    tokens = 5000
    trajectories = Trajectories.of(np.array([0]), np.array([tokens]), np.ones(tokens, dtype=bool))
    rho = reward_tokens(np.array([1.0]), np.full(tokens, difference), 1.0, trajectories)
    advantages, targets = gae(rho, np.full(tokens, -difference), trajectories, gamma=1.0, lam=1.0)
    assert targets[0] == pytest.approx(1.0 - difference * tokens)
    assert advantages[0] == pytest.approx(1.0 - difference * tokens + difference)
    assert np.isfinite(advantages).all()
