from __future__ import annotations

import numpy as np
import pytest

from rlscale.algo.trajectories import Trajectories
from tests.unit.algo.ragged import Ragged, ragged

SAMPLE = np.array([2, 0, 2, 1])
LENGTHS = np.array([3, 2, 2, 2])
MASK = np.array([False, True, True, True, False, False, True, False, False])
"""Sample 2: tokens 1, 2 of row 0 and 6 of row 2; sample 0: token 3; sample 1: none."""


def trainable_tokens(data: Ragged, sample: int) -> list[int]:
    """Positions of a sample's trainable tokens in order, found by walking through its rows."""
    tokens = []
    for row in range(len(data.lengths)):
        if data.sample[row] == sample:
            tokens += [t for t in range(data.offsets[row], data.offsets[row + 1]) if data.mask[t]]
    return tokens


def test_the_packed_order_goes_from_the_last_token_of_every_sample_to_the_first() -> None:
    trajectories = Trajectories.of(SAMPLE, LENGTHS, MASK)
    assert trajectories.samples.tolist() == [2, 0], "the longest first, none for the sample with nothing trainable"
    assert trajectories.tokens.tolist() == [6, 3, 2, 1]
    assert trajectories.active.tolist() == [2, 1, 1]
    assert trajectories.last.tolist() == [6, 3]


def test_following_and_discounted_sums_by_hand() -> None:
    trajectories = Trajectories.of(SAMPLE, LENGTHS, MASK)
    packed = trajectories.pack(np.array([90.0, 1.0, 2.0, 8.0, 90.0, 90.0, 4.0, 90.0, 90.0]))
    following = trajectories.unpack(trajectories.following(packed))
    assert following.tolist() == [0, 2.0, 4.0, 0.0, 0, 0, 0.0, 0, 0]
    # 4; 2 + 4 / 2; 1 + 4 / 2.
    sums = trajectories.unpack(trajectories.discounted_sums(packed, 0.5))
    assert sums.tolist() == [0, 3.0, 4.0, 8.0, 0, 0, 4.0, 0, 0]


@pytest.mark.parametrize("seed", range(8))
def test_ragged_trajectories_agree_with_a_walk_through_the_rows(seed: int) -> None:
    data = ragged(seed)
    trajectories = Trajectories.of(data.sample, data.lengths, data.mask)
    walks = {s: trainable_tokens(data, s) for s in range(len(data.rewards))}
    assert sorted(trajectories.samples.tolist()) == [s for s, tokens in walks.items() if tokens]
    assert trajectories.last.tolist() == [walks[s][-1] for s in trajectories.samples.tolist()]
    position = np.arange(len(data.mask), dtype=np.float64)
    following = trajectories.unpack(trajectories.following(trajectories.pack(position)))
    expected = np.zeros(len(data.mask))
    for tokens in walks.values():
        expected[tokens[:-1]] = tokens[1:]
    np.testing.assert_array_equal(following, expected)


def test_unpack_undoes_pack_and_leaves_exact_zeros_elsewhere() -> None:
    data = ragged(2)
    trajectories = Trajectories.of(data.sample, data.lengths, data.mask)
    there_and_back = trajectories.unpack(trajectories.pack(data.old))
    np.testing.assert_array_equal(there_and_back, np.where(data.mask, data.old, 0.0))


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_trainable_makes_empty_trajectories(rows: int) -> None:
    mask = np.zeros(2 * rows, dtype=bool)
    trajectories = Trajectories.of(np.arange(rows), np.full(rows, 2), mask)
    nothing = trajectories.pack(np.ones(2 * rows))
    assert nothing.shape == trajectories.last.shape == trajectories.active.shape == (0,)
    for packed in (trajectories.following(nothing), trajectories.discounted_sums(nothing, 0.9)):
        assert trajectories.unpack(packed).tolist() == [0.0] * (2 * rows)


def test_lengths_that_do_not_match_the_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 9 tokens"):
        Trajectories.of(SAMPLE, LENGTHS, MASK[:-1])
    with pytest.raises(ValueError, match="must both be"):
        Trajectories.of(SAMPLE[:-1], LENGTHS, MASK)


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="each of 9 tokens"):
        Trajectories.of(SAMPLE, LENGTHS, MASK).pack(np.zeros(10))
