"""Turns with a reward each: returns, advantages by a critic and scores of turns, against sums written as loops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from rlscale.algo.advantages import gae, returns, reward_tokens
from rlscale.algo.scores import score
from rlscale.algo.trajectories import Trajectories
from rlscale.algo.turns import Turns
from tests.unit.algo.ragged import Ragged, ragged
from tests.unit.algo.test_trajectories import trainable_tokens

NAN = math.nan


@dataclass
class Case:
    """Columns with turns: `turn_of` [T] numbers the turn of each trainable token within its sample, -1 elsewhere."""

    data: Ragged
    turn_reward: NDArray[np.float64]
    turn_of: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def trajectories(self) -> Trajectories:
        return Trajectories.of(self.data.sample, self.data.lengths, self.data.mask)

    def turns(self, discount: float) -> Turns:
        return Turns.of(self.turn_reward, self.data.rewards, discount, self.trajectories)

    def rewards(self, sample: int) -> list[float]:
        """Of the sample's turns in their order; what the sample's own reward has besides is the last one's."""
        tokens = trainable_tokens(self.data, sample)
        found = [float(self.turn_reward[token]) for token in tokens if not math.isnan(self.turn_reward[token])]
        return [*found[:-1], found[-1] + float(self.data.rewards[sample]) - sum(found)] if found else []

    def returns(self, sample: int, discount: float) -> list[float]:
        rewards = self.rewards(sample)
        return [sum(discount ** (j - k) * rewards[j] for j in range(k, len(rewards))) for k in range(len(rewards))]


def case(seed: int) -> Case:
    """Turns of 1 to 4 tokens; NaN stands at all other tokens, and a number at some that are masked."""
    data, draw = ragged(seed), np.random.default_rng(seed + 100)
    turn_reward = np.where(data.mask, NAN, 50.0)
    turn_of = np.full(len(data.mask), -1)
    for sample in range(len(data.rewards)):
        tokens, turn = trainable_tokens(data, sample), 0
        while tokens:
            own, tokens = (tokens[: (take := int(draw.integers(1, 5)))], tokens[take:])
            turn_reward[own[-1]] = draw.choice([0.0, -0.5, 0.3])
            turn_of[own] = turn
            turn += 1
    return Case(data, turn_reward, turn_of, draw.normal(size=len(data.mask)))


def by_hand(discount: float) -> tuple[Trajectories, Turns]:
    """Sample 0: turns of tokens 0, 1 and 3 (2 is an observation) with rewards 1 and 4; sample 1: token 4 with 2."""
    mask = np.array([True, True, False, True, True])
    trajectories = Trajectories.of(np.array([0, 1]), np.array([4, 1]), mask)
    turn_reward = np.array([NAN, 1.0, NAN, 4.0, 2.0])
    return trajectories, Turns.of(turn_reward, np.array([5.0, 2.0]), discount, trajectories)


def test_returns_by_hand() -> None:
    trajectories, turns = by_hand(0.5)
    rho = reward_tokens(np.array([5.0, 2.0]), None, 0.0, trajectories, turns)
    np.testing.assert_array_equal(rho, [0, 1, 0, 4, 2])
    # 4; 1 + 4 / 2; the same at the turn's first token. With gamma 0.5 too: 1 + 4 / 4 = 2; 2 / 2 = 1.
    np.testing.assert_array_equal(returns(rho, trajectories, gamma=1.0, turns=turns), [3, 3, 0, 4, 2])
    np.testing.assert_array_equal(returns(rho, trajectories, gamma=0.5, turns=turns), [1, 2, 0, 4, 2])


def test_gae_by_hand() -> None:
    trajectories, turns = by_hand(0.5)
    rho = np.array([0.0, 1.0, 70.0, 4.0, 2.0])
    values = np.array([1.0, 2.0, 70.0, 2.0, 0.0])
    # gamma 1, lam 0.5. Deltas: 4 - 2 = 2; 1 + 2 / 2 - 2 = 0; 2 - 1 = 1. A: 2; 0 + 2 / 4 = 0.5; 1 + 0.5 / 2 = 1.25.
    advantages, targets = gae(rho, values, trajectories, gamma=1.0, lam=0.5, turns=turns)
    np.testing.assert_array_equal(advantages, [1.25, 0.5, 0, 2, 2])
    np.testing.assert_array_equal(targets, [2.25, 2.5, 0, 4, 2])


def test_turns_of_a_group_are_compared_by_hand() -> None:
    _, turns = by_hand(0.5)
    # The returns of the three turns are 3, 4 and 2, their mean 3.
    spread = turns.spread(partial(score, "group_mean"), np.array([7, 7]))
    np.testing.assert_array_equal(spread, [0, 0, 0, 1, -1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("discount", "gamma"), [(1.0, 1.0), (0.4, 1.0), (0.0, 1.0), (0.7, 0.9)])
def test_returns_and_gae_agree_with_sums_over_tokens(seed: int, discount: float, gamma: float) -> None:
    one, lam = case(seed), 0.8
    turns, trajectories = one.turns(discount), one.trajectories
    rho = reward_tokens(one.data.rewards, one.data.old - one.data.ref, 0.3, trajectories, turns)
    expected, advantages = np.zeros(len(rho)), np.zeros(len(rho))
    for sample in range(len(one.data.rewards)):
        tokens, left = trainable_tokens(one.data, sample), one.rewards(sample)
        turn = [float(one.turn_of[token]) for token in tokens]
        own, delta = [], []
        for i, token in enumerate(tokens):
            ends = i + 1 == len(tokens) or turn[i + 1] > turn[i]
            own.append(-0.3 * (one.data.old[token] - one.data.ref[token]) + (left.pop(0) if ends else 0.0))
            ahead = 0.0 if i + 1 == len(tokens) else discount ** (turn[i + 1] - turn[i]) * one.values[tokens[i + 1]]
            delta.append(own[i] + gamma * ahead - one.values[token])
        for i, token in enumerate(tokens):
            between = [discount ** (turn[j] - turn[i]) for j in range(i, len(tokens))]
            expected[token] = sum(gamma**j * x * own[i + j] for j, x in enumerate(between))
            advantages[token] = sum((gamma * lam) ** j * x * delta[i + j] for j, x in enumerate(between))
    found = returns(rho, trajectories, gamma=gamma, turns=turns)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    by_critic, targets = gae(rho, one.values, trajectories, gamma=gamma, lam=lam, turns=turns)
    np.testing.assert_allclose(by_critic, advantages, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(targets, np.where(one.data.mask, advantages + one.values, 0), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["raw", "group_mean", "group_mean_std"])
def test_every_token_of_a_turn_has_the_turns_score_among_those_of_its_group(seed: int, kind: str) -> None:
    one = case(seed)
    spread = one.turns(0.6).spread(partial(score, kind), one.data.groups)
    expected = np.zeros(len(spread))
    for group in set(one.data.groups.tolist()):
        members = [n for n in range(len(one.data.rewards)) if one.data.groups[n] == group]
        found = {(n, k): g for n in members for k, g in enumerate(one.returns(n, 0.6))}
        mean, count = sum(found.values()) / max(len(found), 1), len(found)
        spread_of = math.sqrt(sum((g - mean) ** 2 for g in found.values()) / (count - 1)) if count > 1 else 0.0
        for n in members:
            for token in trainable_tokens(one.data, n):
                own = found[n, int(one.turn_of[token])]
                centred = own - mean if count > 1 else 0.0
                expected[token] = {"raw": own, "group_mean": centred}.get(kind, centred / (spread_of + 1e-6))
    np.testing.assert_allclose(spread, expected, rtol=1e-9, atol=1e-9)
    assert (spread[~one.data.mask] == 0).all()


def test_one_turn_with_the_whole_reward_is_what_there_is_without_turns() -> None:
    data = ragged(2)
    trajectories = Trajectories.of(data.sample, data.lengths, data.mask)
    turn_reward = np.full(len(data.mask), NAN)
    turn_reward[trajectories.last] = 0.125  # the rest of a sample's reward is added to its last turn
    turns = Turns.of(turn_reward, data.rewards, 0.3, trajectories)
    rho = reward_tokens(data.rewards, None, 0.0, trajectories)
    np.testing.assert_allclose(reward_tokens(data.rewards, None, 0.0, trajectories, turns), rho, rtol=1e-15)
    np.testing.assert_allclose(
        returns(rho, trajectories, gamma=0.9, turns=turns), returns(rho, trajectories, gamma=0.9)
    )


def test_a_last_token_that_ends_no_turn_is_refused() -> None:
    trajectories = Trajectories.of(np.array([0]), np.array([2]), np.array([True, True]))
    with pytest.raises(ValueError, match="the last trainable token of a sample must end a turn"):
        Turns.of(np.array([1.0, NAN]), np.array([1.0]), 1.0, trajectories)
