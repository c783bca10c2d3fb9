"""What an engine without a model generates."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.serve.simulator.token_stream import _PERIOD, drawn, logprobs_of

WORDS = (3, 40, (2, 7, 11))
"""The lowest token, the number of tokens, and those that end a response."""


@pytest.mark.parametrize("cut", [0, 1, 150, 299, 300])
@pytest.mark.parametrize("start", [0, 12, _PERIOD - 100, 3 * _PERIOD + 5])
def test_a_response_goes_on_behind_any_of_its_tokens_as_if_it_had_not_been_cut(start: int, cut: int) -> None:
    whole = drawn(9, 2, start, 300, *WORDS)
    first, rest = drawn(9, 2, start, cut, *WORDS), drawn(9, 2, start + cut, 300 - cut, *WORDS)
    for one, before, after in zip(whole, first, rest, strict=True):
        assert np.array_equal(one, np.concatenate([before, after]))
    assert np.array_equal(whole[1], logprobs_of(9, 2, start, 300))


def test_every_token_but_the_ends_is_drawn_about_as_often_wherever_the_stream_begins_again() -> None:
    begins = [drawn(seed, 0, 0, 3, *WORDS)[0].tolist() for seed in range(200)]
    assert len({tuple(one) for one in begins}) > 190
    tokens, logprobs = drawn(0, 0, 0, _PERIOD, *WORDS)
    assert (tokens.dtype, logprobs.dtype) == (np.int32, np.float64)
    counts = np.bincount(tokens, minlength=40)
    assert set(np.flatnonzero(counts == 0)) == {0, 1, 2, 7, 11}
    assert counts[counts > 0].min() > 0.95 * counts[counts > 0].max()
    assert -2.05 <= logprobs.min() < -2.04
    assert -0.06 < logprobs.max() <= -0.05


def test_seed_and_weights_decide_and_an_answer_may_be_changed() -> None:
    mine = drawn(1, 0, 0, 50, *WORDS)[0]
    before = mine.copy()
    for other in (drawn(2, 0, 0, 50, *WORDS), drawn(1, 1, 0, 50, *WORDS)):
        assert not np.array_equal(other[0], mine)
    mine[-1] = 2
    assert np.array_equal(drawn(1, 0, 0, 50, *WORDS)[0], before)
