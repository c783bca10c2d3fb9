"""A generation that syncs cut into several requests: what is kept of each part, and what is asked for next."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import RequestFailed
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.engines.spans import versions_of

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

    async def generate(self, tokens: Any, sampling: Any, seed: int, experts: Any = None) -> Generation:
        self.asked.append((tokens.tolist(), sampling.max_new_tokens, seed))
        answer = self.answers.pop(0)
        self.cuts.count += answer.finish_reason == "abort"
        return answer


def play(answers: list[Generation], experts: ExpertSizes | None = None, version: int = 4) -> tuple[Generation, Script]:
    script = Script(answers, Cuts())
    engines = Continued(script, script.cuts)  # type: ignore[arg-type]  # the one method that it calls

    async def main() -> Generation:
        prompt = np.array([1, 2], np.int32)
        return await engines.generate(prompt, SamplingParams(9), 7, Admission(1), Attempt(lambda: version), experts)

    return asyncio.run(main()), script


def test_a_response_goes_on_with_its_tokens_its_seed_and_the_rest_of_its_length() -> None:
    whole, script = play([part([3, 4, 5], 4), part([], 5), part([6, 7], 5), part([8, 9], 6, "stop")])
    assert script.asked == [([1, 2], 9, 7), ([1, 2, 3, 4], 7, 7), ([1, 2, 3, 4], 7, 7), ([1, 2, 3, 4, 6], 6, 7)]
    assert whole.tokens.tolist() == [3, 4, 6, 8, 9]
    assert whole.versions.tolist() == [4, 4, 5, 6, 6]
    assert whole.logprobs.tolist() == [-3, -4, -6, -8, -9], "as each part had them"
    assert whole.finish_reason == "stop"


def test_experts_are_those_of_the_request_that_read_the_token_first() -> None:
    # Tokens 1 2 | 3 4 (5 is sampled anew) | 6 7: the second request is the first whose answer needed token 4 read.
    first = part([3, 4, 5], 4, experts=[11, 12, 13, 14])
    second = part([6, 7], 5, "length", experts=[21, 22, 23, 24, 25])
    whole, _ = play([first, second], EXPERTS)
    assert whole.routed_experts is not None
    assert whole.routed_experts.reshape(-1).tolist() == [11, 12, 13, 24, 25]


def test_a_part_without_its_experts_is_generated_again() -> None:
    whole, script = play([part([3, 4, 5], 4), part([6], 5, "stop", experts=[21, 22])], EXPERTS)
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
