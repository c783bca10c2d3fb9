from __future__ import annotations

import numpy as np
import pytest

from rlscale.algo.scores import KINDS, STD_EPS, score

REWARDS = np.array([1.0, 0.0, 5.0, 0.0, 1.0, 0.0, 0.7])
GROUPS = np.array([4, 4, 9, 4, 2, 2, 9])
"""Group 4 has rewards 1, 0, 0; group 9 has 5, 0.7; group 2 has 1, 0."""


def test_group_mean_by_hand() -> None:
    expected = [2 / 3, -1 / 3, 2.15, -1 / 3, 0.5, -0.5, -2.15]
    np.testing.assert_allclose(score("group_mean", REWARDS, GROUPS), expected, rtol=0, atol=1e-15)


def test_group_mean_std_by_hand_uses_the_unbiased_std() -> None:
    third, half, wide = np.sqrt(1 / 3), np.sqrt(1 / 2), 4.3 / np.sqrt(2)
    std = np.array([third, third, wide, third, half, half, wide]) + 1e-6
    expected = np.array([2 / 3, -1 / 3, 2.15, -1 / 3, 0.5, -0.5, -2.15]) / std
    np.testing.assert_allclose(score("group_mean_std", REWARDS, GROUPS), expected, rtol=1e-14)


def test_leave_one_out_by_hand() -> None:
    expected = [1.0, -0.5, 4.3, -0.5, 1.0, -1.0, -4.3]
    np.testing.assert_allclose(score("leave_one_out", REWARDS, GROUPS), expected, rtol=0, atol=1e-14)


def test_raw_is_the_reward_and_none_is_zero() -> None:
    np.testing.assert_array_equal(score("raw", REWARDS, GROUPS), REWARDS)
    np.testing.assert_array_equal(score("none", REWARDS, GROUPS), np.zeros(7))


@pytest.mark.parametrize("kind", ["group_mean_std", "group_mean", "leave_one_out"])
def test_equal_rewards_and_groups_of_one_score_exactly_zero(kind: str) -> None:
    # The mean of ten times 0.1 is not 0.1 in floating point: without the rule the std would blow the rest up.
    rewards = np.array([0.1] * 10 + [3.0])
    groups = np.array([0] * 10 + [1])
    assert (score(kind, rewards, groups) == 0.0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_scores_agree_with_a_loop_over_groups(kind: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, 6, 40) * 11
    rewards = draw.choice([0.0, 1.0, 0.3], 40)
    expected = np.zeros(40)
    for group in set(groups.tolist()):
        where = [i for i in range(40) if groups[i] == group]
        values = [float(rewards[i]) for i in where]
        for i in where:
            others = [float(rewards[j]) for j in where if j != i]
            if kind == "raw":
                expected[i] = rewards[i]
            elif kind == "none" or len(set(values)) == 1:
                expected[i] = 0.0
            elif kind == "leave_one_out":
                expected[i] = rewards[i] - sum(others) / len(others)
            else:
                mean = sum(values) / len(values)
                variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
                expected[i] = (rewards[i] - mean) / (variance**0.5 + STD_EPS if kind == "group_mean_std" else 1.0)
    np.testing.assert_allclose(score(kind, rewards, groups), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_samples_does_not_matter(kind: str) -> None:
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(
        score(kind, REWARDS[order], GROUPS[order]), score(kind, REWARDS, GROUPS)[order], rtol=1e-14, atol=1e-15
    )


@pytest.mark.parametrize("kind", ["group_mean_std", "group_mean", "leave_one_out"])
def test_grouped_scores_of_unequal_groups_add_up_to_zero_in_each_group(kind: str) -> None:
    scores = score(kind, REWARDS, GROUPS)
    for group in (2, 4, 9):
        members = scores[np.flatnonzero(np.isin(GROUPS, group))]
        assert members.sum() == pytest.approx(0.0, abs=1e-14)
        assert np.abs(members).max() > 0.4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_rewards_of_extreme_size_give_finite_scores(kind: str, scale: float) -> None:
    scores = score(kind, scale * REWARDS, GROUPS)
    assert np.isfinite(scores).all()
    # The epsilon keeps tiny rewards tiny; huge ones are measured in standard deviations.
    assert np.abs(scores).max() <= (2.0 if kind == "group_mean_std" else 5.0 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_no_samples_give_no_scores(kind: str) -> None:
    assert score(kind, np.zeros(0), np.zeros(0, dtype=np.int64)).shape == (0,)


def test_an_unscored_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        score("raw", np.array([1.0, np.nan]), np.array([0, 0]))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="group_mean_std"):
        score("median", REWARDS, GROUPS)
