"""A generation that syncs cut into several requests: what is kept of each part, and what is asked for next."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.answer_reading import generation_of
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.engines.spans import versions_of
from rlscale.rollout.ledger import Ledger

EXPERTS = ExpertSizes(layers=1, top_k=1, experts=99)


def part(tokens: list[int], version: int, finish: str = "abort", experts: list[int] | None = None) -> Generation:
    return Generation(
        np.array(tokens, np.int32),
        -np.array(tokens, np.float32),
        finish,
        np.full(len(tokens), version, np.int32),
        routed_experts=None if experts is None else np.array(experts, np.int16).reshape(-1, 1, 1),
    )


class Script:
    """Gives one answer after another; before each that is cut off a sync takes place. Keeps what it was asked."""

    def __init__(self, answers: list[Generation], cuts: Cuts) -> None:
        self.answers, self.cuts, self.asked = answers, cuts, []

    async def generate(
        self, tokens: Any, sampling: Any, seed: int, experts: Any = None, weights: Any = None
    ) -> Generation:
        self.asked.append((tokens.tolist(), sampling.max_new_tokens, seed))
        answer = self.answers.pop(0)
        with self.cuts.cutting() if answer.finish_reason == "abort" else nullcontext():
            return answer


def play(
    answers: list[Generation],
    experts: ExpertSizes | None = None,
    version: int = 4,
    sampling: SamplingParams | None = None,
    ledger: Ledger | None = None,
) -> tuple[Generation, Script]:
    script = Script(answers, Cuts())
    engines = Continued(script, script.cuts, may_end={88, 99})  # type: ignore[arg-type]  # the one method that it calls

    async def main() -> Generation:
        prompt, attempt = np.array([1, 2], np.int32), Attempt(lambda: version, ledger)
        return await engines.generate(prompt, sampling or SamplingParams(9), 7, Admission(1), attempt, experts)

    return asyncio.run(main()), script


def test_a_response_goes_on_with_its_tokens_its_seed_and_the_rest_of_its_length() -> None:
    ledger = Ledger()
    answers = [part([3, 4, 5], 4), part([], 5), part([6, 7], 5), part([8, 9], 6, "stop")]
    whole, script = play(answers, ledger=ledger)
    behind = [1, 2, 3, 4, 5]
    assert script.asked == [([1, 2], 9, 7), (behind, 6, 7), (behind, 6, 7), ([*behind, 6, 7], 4, 7)]
    assert whole.tokens.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert whole.versions.tolist() == [4, 4, 4, 5, 5, 6, 6]
    assert whole.logprobs.tolist() == [-3, -4, -5, -6, -7, -8, -9], "as each part had them"
    assert whole.finish_reason == "stop"
    assert ledger.tokens.received == 7
    assert "discarded_cut_off" not in ledger.tokens.fates


@pytest.mark.parametrize(("asked", "finish"), [((99,), "stop"), ((), "length")])
def test_a_response_that_ended_with_the_token_at_which_it_was_cut_off_is_complete(
    asked: tuple[int, ...], finish: str
) -> None:
    """The engine says "abort" of it all the same: the end token, or the last of its length."""
    last = 99 if asked else 6
    sampling = SamplingParams(9 if asked else 4, stop_token_ids=asked)
    whole, script = play([part([3, 4], 4), part([5, last], 5)], sampling=sampling)
    assert len(script.asked) == 2
    assert whole.tokens.tolist() == [3, 4, 5, last]
    assert whole.versions.tolist() == [4, 4, 5, 5]
    assert whole.finish_reason == finish


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_only_a_token_at_which_the_engine_may_have_ended_unasked_is_sampled_anew(ignore_eos: bool) -> None:
    sampling, ledger = SamplingParams(9, stop_token_ids=(99,), ignore_eos=ignore_eos), Ledger()
    whole, script = play([part([3, 88], 4), part([88, 99], 4, "stop")], sampling=sampling, ledger=ledger)
    assert script.asked[1] == (([1, 2, 3, 88], 7, 7) if ignore_eos else ([1, 2, 3], 8, 7))
    assert whole.tokens.tolist() == ([3, 88, 88, 99] if ignore_eos else [3, 88, 99])
    assert ledger.tokens.fates["discarded_cut_off"] == (0 if ignore_eos else 1)


def test_a_token_that_may_have_completed_a_text_to_stop_at_is_sampled_anew() -> None:
    ledger = Ledger()
    answers = [part([3, 4], 4), part([4], 5, "stop")]
    whole, script = play(answers, sampling=SamplingParams(9, stop=("end",)), ledger=ledger)
    assert script.asked[1] == ([1, 2, 3], 8, 7)
    assert whole.tokens.tolist() == [3, 4]
    assert ledger.tokens.fates["discarded_cut_off"] == 1


def test_experts_are_those_of_the_request_that_read_the_token_first() -> None:
    # Tokens 1 2 | 3 4 | 6 7: the second request is the first whose answer needed token 4 read.
    first = part([3, 4], 4, experts=[11, 12, 13])
    second = part([6, 7], 5, "length", experts=[21, 22, 23, 24, 25])
    whole, _ = play([first, second], EXPERTS)
    assert whole.routed_experts is not None
    assert whole.routed_experts.reshape(-1).tolist() == [11, 12, 13, 24, 25]


def test_experts_of_a_token_that_is_sampled_anew_are_those_of_its_second_time() -> None:
    first = part([3, 4, 88], 4, experts=[11, 12, 13, 14])
    second = part([6, 7], 5, "length", experts=[21, 22, 23, 24, 25])
    whole, _ = play([first, second], EXPERTS)
    assert whole.routed_experts is not None
    assert whole.routed_experts.reshape(-1).tolist() == [11, 12, 13, 24, 25]


def test_a_part_without_its_experts_is_generated_again() -> None:
    whole, script = play([part([3, 4, 5], 4), part([6], 5, "stop", experts=[21, 22])], EXPERTS)
    assert script.asked[1] == ([1, 2], 9, 7)
    assert whole.tokens.tolist() == [6]


def test_a_part_that_does_not_name_the_words_it_was_drawn_from_is_generated_again() -> None:
    """An engine does not name them where the request waited in its queue when it was aborted."""
    meta = {"finish_reason": {"type": "abort"}, "output_token_logprobs": [[-1.0, 3, None]]}
    spans = {"weight_versions": [{"version": "4", "start": 0, "end": 1}]}
    waited = generation_of({"meta_info": meta | spans}, 2, None, names_support=True)
    last = part([6], 5, "stop").of_all_words()
    whole, script = play([waited, last], sampling=SamplingParams(9, names_support=True))
    assert waited.tokens.tolist() == [3]
    assert script.asked[1] == ([1, 2], 9, 7)
    assert whole.tokens.tolist() == [6]


def test_an_abort_without_a_sync_is_a_failure() -> None:
    cuts = Cuts()
    engines = Continued(Script([part([3], 4)], Cuts()), cuts)  # type: ignore[arg-type]  # the one method that it calls
    call = engines.generate(np.array([1], np.int32), SamplingParams(9), 7, Admission(1), Attempt(lambda: 4))
    with pytest.raises(RequestFailed, match="the engine aborted the request"):
        asyncio.run(call)


def test_a_part_of_older_weights_is_refused() -> None:
    with pytest.raises(RequestFailed, match="the engine holds weight version 3, not 4"):
        play([part([3, 4], 3)])


SPANS = [{"version": "3", "start": 0, "end": 2}, {"version": "default", "start": 2, "end": 3}]


def test_every_token_has_the_version_of_its_span() -> None:
    assert versions_of({"weight_versions": SPANS}, 3).tolist() == [3, 3, -1]
    assert versions_of({}, 0).tolist() == []


@pytest.mark.parametrize(
    ("spans", "tokens", "message"),
    [
        (SPANS, 4, "cover 3 of 4 tokens"),
        (SPANS[1:], 3, "do not follow one another"),
        (None, 1, "does not say which weights generated it"),
    ],
)
def test_spans_that_do_not_cover_the_tokens_are_refused(spans: Any, tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        versions_of({"weight_versions": spans}, tokens)
