"""The likeliest words of an engine's answer, also where words were left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlscale.rollout.engines.answer_reading import generation_of
from rlscale.rollout.engines.sampler_words import sampler_words_of

TOKENS = np.array([5, 7], np.int32)
LISTED = [[[-0.5, 5, None], [-1.0, 2, None]], [[-0.25, 3, None], [-2.0, 7, None]]]


def answer(**changes: Any) -> dict[str, Any]:
    """Of two tokens, whose log-probs are those that are listed."""
    given = {"output_top_logprobs": LISTED, "output_token_logprobs": [[-0.5, 5, None], [-2.0, 7, None]]}
    reason = {"finish_reason": {"type": "length"}, "weight_versions": [{"version": "1", "start": 0, "end": 2}]}
    return {**given, **reason, **changes}


def test_they_are_columns_of_the_generation() -> None:
    found = generation_of({"meta_info": answer()}, 3, None, names_support=False, named_words=2).columns
    assert found["sampler_words"].tolist() == [[5, 2], [3, 7]]
    assert found["sampler_logprobs"].tolist() == [[-0.5, -1.0], [-0.25, -2.0]]
    assert (found["sampler_words"].dtype, found["sampler_logprobs"].dtype) == (np.int32, np.float32)


def test_those_that_were_left_out_are_not_named_and_the_others_are_likelier() -> None:
    """The first token was drawn from {5, 9}, by which its log-prob rose by 0.25; the second from all words."""
    meta = answer(output_token_sampling_logprobs=[-0.25, -2.0])
    found = sampler_words_of(meta, TOKENS, 2, np.array([[5, 9], [-1, -1]], np.int32))
    assert found["sampler_words"].tolist() == [[5, -1], [3, 7]]
    assert found["sampler_logprobs"].tolist() == [[-0.25, 0.0], [-0.25, -2.0]]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (None, "lists those of 0 of 2 tokens"),
        (LISTED[:1], "lists those of 1 of 2 tokens"),
        ([LISTED[0], None], "lists those of 1 of 2 tokens"),
        ([LISTED[0], LISTED[1][:1]], "lists 1 and not 2 of a token"),
        ([LISTED[0], [[-0.5, 1, None], [float("nan"), 2, None]]], "not finite"),
    ],
)
def test_an_answer_that_does_not_tell_is_refused(listed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler_words_of(answer(output_top_logprobs=listed), TOKENS, 2)
