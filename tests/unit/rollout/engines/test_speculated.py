"""What is told of drafts."""

from __future__ import annotations

from rlscale.rollout.engines.speculated import Speculated


def test_rates_are_of_all_tokens_and_begin_anew_when_taken() -> None:
    counts = Speculated()
    counts.answered({"completion_tokens": 9})  # an engine that does not speculate
    assert counts.take() == {}
    first = {"spec_verify_ct": 2, "spec_num_correct_drafts": 3, "spec_num_proposed_drafts": 6, "completion_tokens": 5}
    second = {"spec_verify_ct": 6, "spec_num_correct_drafts": 0, "spec_num_proposed_drafts": 18, "completion_tokens": 6}
    for answer in (first, second):
        counts.answered(answer)
    assert counts.take() == {"speculation/tokens_per_pass": 11 / 8, "speculation/accept_rate": 3 / 24}
    assert counts.take() == {}
