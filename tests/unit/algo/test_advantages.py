from __future__ import annotations

import numpy as np
import pytest

from rlscale.algo.advantages import broadcast
from tests.unit.algo.ragged import ragged


def test_every_trainable_token_of_every_segment_gets_its_samples_score() -> None:
    advantages = broadcast(
        np.array([0.5, -2.0]),
        sample=np.array([1, 0, 1]),
        lengths=np.array([2, 1, 3]),
        mask=np.array([False, True, True, True, False, True]),
    )
    np.testing.assert_array_equal(advantages, [0.0, -2.0, 0.5, -2.0, 0.0, -2.0])


def test_broadcast_agrees_with_a_loop_on_ragged_input() -> None:
    step = ragged(3)
    scores = np.random.default_rng(1).normal(size=step.rewards.shape)
    expected = [
        scores[step.sample[row]] if step.mask[token] else 0.0
        for row in range(len(step.lengths))
        for token in range(step.offsets[row], step.offsets[row + 1])
    ]
    np.testing.assert_array_equal(broadcast(scores, step.sample, step.lengths, step.mask), expected)


def test_lengths_that_do_not_match_the_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 2 tokens"):
        broadcast(np.array([1.0]), np.array([0]), np.array([2]), np.array([True]))
