"""What is asked of an engine for a configuration, and what its answer says of the words that tokens were drawn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlscale.config.derived.source_sampling import sampled_apart
from rlscale.config.schema.data_config import MixtureData, SourceConfig
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.rollout_config import RolloutConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.sample import Group, Prompt
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.sampling_params import MOST_WORDS, SamplingParams, names_words
from rlscale.rollout.engines.sampling_support import support_of
from rlscale.rollout.trajectory import Trajectory


def test_a_request_says_what_differs_from_sglangs_own_values() -> None:
    plain = SamplingParams.of(RolloutConfig(), 9, end=3)
    assert plain.body(7) == {"max_new_tokens": 9, "temperature": 1.0, "stop_token_ids": (3,), "sampling_seed": 7}
    given = EvalConfig(
        temperature=0, top_k=5, stop=["END"], stop_token_ids=[8], min_response_tokens=2, repetition_penalty=1.2
    )
    assert SamplingParams.of(given, 9, end=3).body(7) == {
        "max_new_tokens": 9,
        "temperature": 0,
        "top_k": 5,
        "stop": ("END",),
        "stop_token_ids": (8, 3),
        "min_new_tokens": 2,
        "repetition_penalty": 1.2,
        "sampling_seed": 7,
    }


def test_what_is_left_of_a_length_is_asked_for_as_if_it_were_the_whole() -> None:
    given = EvalConfig(top_k=5, stop_token_ids=[8], repetition_penalty=1.2)
    whole, rest = (SamplingParams.of(given, length, end=3) for length in (9, 4))
    assert whole.of_length(4) == rest
    assert whole.of_length(4).body(7) == rest.body(7)
    assert whole.body(7)["max_new_tokens"] == 9


def test_without_ends_not_even_the_end_of_turn_ends_a_response() -> None:
    params = SamplingParams.of(RolloutConfig(ignore_eos=True), 9, end=3)
    assert (params.ignore_eos, params.stop_token_ids) == (True, ())


def test_only_training_asks_for_the_words_that_were_left() -> None:
    training = SamplingParams.of(RolloutConfig(top_p=0.9), 9, end=3)
    assert training.names_support
    assert training.body(1)["top_k"] == MOST_WORDS, "an answer that names words needs a bound"
    assert SamplingParams.of(RolloutConfig(top_k=4), 9, end=3).body(1)["top_k"] == 4
    assert not SamplingParams.of(EvalConfig(top_p=0.9), 9, end=3).names_support


def test_a_source_is_sampled_as_it_says_and_its_samples_are_trained_so() -> None:
    rollout = RolloutConfig(top_p=0.9)
    sources = {
        "whole": SourceConfig(top_p=1.0),
        "few": SourceConfig(top_k=4),
        "plain": SourceConfig(weight=2.0),
    }
    data = MixtureData(sources=sources)
    sampling = SamplingParams.of(rollout, 9, end=3, sources=sampled_apart(rollout, data))
    found = {name: sampling.of_source(name) for name in (*sources, "")}
    assert {name: (one.top_p, one.top_k, one.names_support, one.names_all) for name, one in found.items()} == {
        "whole": (1.0, -1, False, True),
        "few": (0.9, 4, True, False),
        "plain": (0.9, -1, True, False),
        "": (0.9, -1, True, False),
    }
    plain = SamplingParams.of(RolloutConfig(), 9, end=3, sources={"other": RolloutConfig(temperature=2.0)})
    assert not plain.names_all  # nobody names words, so nobody has to say that none was left out
    assert not plain.of_source("other").names_all
    assert "own" not in sampling.body(1)


def test_samples_say_their_temperature_where_sources_have_several() -> None:
    rollout = RolloutConfig(temperature=0.8)
    sources = {"hot": SourceConfig(temperature=1.2), "few": SourceConfig(top_k=4), "plain": SourceConfig()}
    sampling = SamplingParams.of(rollout, 9, 3, sampled_apart(rollout, MixtureData(sources=sources)))
    found = {name: sampling.of_source(name) for name in sources}
    assert {name: one.temperature for name, one in found.items()} == {"hot": 1.2, "few": 0.8, "plain": 0.8}
    relative = {name: one.relative_temperature for name, one in found.items()}
    assert relative == {"hot": pytest.approx(1.5), "few": 1.0, "plain": 1.0}
    assert "relative_temperature" not in found["hot"].body(1)
    alike = SamplingParams.of(rollout, 9, 3, sampled_apart(rollout, MixtureData(sources={"few": sources["few"]})))
    assert alike.of_source("few").relative_temperature is None
    two = np.zeros(2, np.int32)
    generation = Generation(two, two.astype(np.float32), "stop", two).at_temperature(1.5)
    assert generation.columns["relative_temperature"].tolist() == [1.5, 1.5]


def test_a_source_ends_its_responses_as_it_says_and_as_its_template_does() -> None:
    rollout = RolloutConfig(stop_token_ids=[7], stop=["END"], min_p=0.1)
    sources = {
        "own": SourceConfig(stop_token_ids=[8, 9], stop=[], min_p=0.0),
        "longest": SourceConfig(stop_token_ids=[], ignore_eos=True),
        "untemplated": SourceConfig(),
        "plain": SourceConfig(),
    }
    apart = sampled_apart(rollout, MixtureData(sources=sources))
    ends = dict.fromkeys(sources, 3) | {"untemplated": 1}
    sampling = SamplingParams.of(rollout, 9, end=3, sources=apart, ends=ends)
    found = {name: sampling.of_source(name) for name in sources}
    assert {name: (one.stop_token_ids, one.stop, one.min_p, one.ignore_eos) for name, one in found.items()} == {
        "own": ((8, 9, 3), (), 0.0, False),
        "longest": ((), ("END",), 0.1, True),
        "untemplated": ((7, 1), ("END",), 0.1, False),
        "plain": ((7, 3), ("END",), 0.1, False),
    }


@pytest.mark.parametrize(
    ("rollout", "own", "named"),
    [
        (RolloutConfig(), SourceConfig(), False),
        (RolloutConfig(), SourceConfig(top_k=4), True),
        (RolloutConfig(top_k=4), SourceConfig(top_k=-1), True),  # other sources have the run's
    ],
)
def test_engines_have_to_name_words_where_any_source_asks_for_it(
    rollout: RolloutConfig, own: SourceConfig, named: bool
) -> None:
    assert names_words(rollout, MixtureData(sources={"one": own})) == named


def answer(named: Any, logprobs: Any) -> dict[str, Any]:
    return {"output_token_sampling_mask": named, "output_token_sampling_logprobs": logprobs}


def test_words_are_filled_up_to_the_most_of_a_token() -> None:
    support, logprobs = support_of(answer([[5, 2, 9], [4]], [-0.5, 0.0]), np.array([2, 4], np.int32))
    assert support.tolist() == [[5, 2, 9], [4, -1, -1]]
    assert logprobs.tolist() == [-0.5, 0.0]
    assert (support.dtype, logprobs.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(
    ("named", "logprobs", "message"),
    [
        (None, None, "the answer does not name them; the engine must be started by rlscale"),
        ([[2]], [0.0], "names those of 1 of 2 tokens"),
        ([[2], None], [0.0, None], "names those of 2 of 2 tokens"),
        ([[2], [5]], [0.0, 0.0], "names words that a token is not among"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(named: Any, logprobs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        support_of(answer(named, logprobs), np.array([2, 4], np.int32))


def test_a_batch_has_the_words_of_every_token_and_none_for_those_that_were_only_read() -> None:
    def generated(*words: list[int]) -> Generation:
        own = [[*row, *[-1] * (max(map(len, words)) - len(row))] for row in words]
        tokens, ones = np.array([row[0] for row in words], np.int32), np.zeros(len(words), np.float32)
        return Generation(
            tokens, ones, "stop", np.zeros(len(words), np.int32), columns={"sampling_support": np.array(own, np.int32)}
        )

    prompt = Prompt(0, "0", np.array([1], np.int32), None)
    samples = []
    for index, turns in enumerate(([generated([4, 5]), generated([6, 7, 8], [9])], [generated([3])])):
        trajectory = Trajectory(prompt.tokens)
        for turn in turns:
            trajectory.generated(turn)
            trajectory.observed(np.array([2], np.int32))
        samples.append(trajectory.sample(prompt, index))
    trajectory = Trajectory(prompt.tokens)  # of a source that is sampled from all words
    two = np.zeros(2, np.int32)
    trajectory.generated(Generation(two, two.astype(np.float32), "stop", two).of_all_words())
    samples.append(trajectory.sample(prompt, 2))
    column = Batch.from_groups([Group(prompt, samples)]).column("sampling_support")
    none = [-1, -1, -1]
    assert column.tolist() == [none, [4, 5, -1], none, [6, 7, 8], [9, -1, -1], none, none, [3, -1, -1], none] + 3 * [
        none
    ]
    forgotten = replace(samples[2], columns={})  # which of the two it was nobody knows
    with pytest.raises(ValueError, match=r"2 of 3 samples bring the column 'sampling_support': either all must, or no"):
        Batch.from_groups([Group(prompt, [*samples[:2], forgotten])])
