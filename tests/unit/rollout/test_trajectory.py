"""Trajectories: what is known of every token, over several turns."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlscale.data.batches.batch import Batch
from rlscale.data.sample import NOT_GENERATED, Group, Prompt, Segment
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.trajectory import Trajectory


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def generation(ids: list[int], version: int, experts: Any = None) -> Generation:
    logprobs = np.array([-id / 10 for id in ids], np.float32)
    versions = np.full(len(ids), version, np.int32)
    return Generation(tokens(*ids), logprobs, "stop", versions, routed_experts=experts)


def test_only_generated_tokens_are_trained_and_carry_their_own_log_probs_and_version() -> None:
    prompt = Prompt(7, "7", tokens(1, 2), None)
    trajectory = Trajectory(prompt.tokens)
    trajectory.generated(generation([3, 4], version=5))
    trajectory.observed(tokens(9, 9, 9))
    assert trajectory.tokens.tolist() == [1, 2, 3, 4, 9, 9, 9]
    assert trajectory.continuation_length == 5
    trajectory.generated(generation([6], version=8))
    sample = trajectory.sample(prompt, index=2)
    assert (sample.prompt_index, sample.index, sample.prompt_length) == (7, 2, 2)
    assert sample.tokens.tolist() == [1, 2, 3, 4, 9, 9, 9, 6]
    assert sample.loss_mask.tolist() == [False, False, True, True, False, False, False, True]
    assert sample.versions.tolist() == [NOT_GENERATED] * 2 + [5, 5] + [NOT_GENERATED] * 3 + [8]
    assert np.allclose(sample.rollout_logprobs, [0, 0, -0.3, -0.4, 0, 0, 0, -0.6])
    assert sample.min_version == 5
    types = [a.dtype for a in (sample.tokens, sample.loss_mask, sample.rollout_logprobs, sample.versions)]
    assert types == [np.int32, np.bool_, np.float32, np.int32]
    assert sample.routed_experts is None


def test_a_new_segment_is_a_sequence_of_its_own_of_the_same_sample() -> None:
    prompt = Prompt(0, "0", tokens(1, 2), None)
    trajectory = Trajectory(prompt.tokens)
    trajectory.generated(generation([3, 4], 5, np.zeros((3, 1, 1), np.int16)))
    trajectory.open_segment(tokens(7, 8, 9))
    assert trajectory.tokens.tolist() == [7, 8, 9]
    trajectory.generated(generation([6], 6, np.ones((3, 1, 1), np.int16)))
    assert trajectory.continuation_length == 3
    sample = trajectory.sample(prompt, 0)
    sample.reward = 0.5
    assert sample.segments == (Segment(4, 2), Segment(4, 3))
    assert sample.continuation_length == 3
    other = Trajectory(tokens(1))
    other.generated(generation([2], 6, np.ones((1, 1, 1), np.int16)))
    batch = Batch.from_groups([Group(prompt, [sample, other.sample(prompt, 1)])])
    assert [batch.row("tokens", row).tolist() for row in range(3)] == [[1, 2, 3, 4], [7, 8, 9, 6], [1, 2]]
    assert [batch.row("loss_mask", row).tolist() for row in (0, 1)] == [[False] * 2 + [True] * 2, [False] * 3 + [True]]
    assert batch.column("versions").tolist() == [-1, -1, 5, 5, -1, -1, -1, 6, -1, 6]
    assert batch.column("routed_experts")[:, 0, 0].tolist() == [0, 0, 0, -1, 1, 1, 1, -1, 1, -1]
    names = ("sample", "group", "prompt", "prompt_length")
    assert [batch.column(name).tolist() for name in names] == [[0, 0, 1], [0, 0, 0], [0, 0, 0], [2, 3, 1]]
    assert batch.column("reward")[:2].tolist() == [0.5, 0.5]


def test_a_token_keeps_the_experts_of_the_request_that_read_it_first() -> None:
    # Experts are numbered so that the request and the token can be told from them: 100 * request + place.
    def chosen(request: int, inputs: int) -> np.ndarray:
        return (100 * request + np.arange(inputs, dtype=np.int16)).reshape(-1, 1, 1)

    prompt = Prompt(0, "0", tokens(1, 2), None)
    trajectory = Trajectory(prompt.tokens)
    trajectory.generated(generation([3, 4], 0, chosen(1, 3)))
    trajectory.observed(tokens(9))
    trajectory.generated(generation([6, 7], 0, chosen(2, 6)))
    routed = trajectory.sample(prompt, 0).routed_experts
    assert routed is not None
    # The fourth token, sampled by the first request, was an input of the second only; the last one of none.
    assert routed[:, 0, 0].tolist() == [100, 101, 102, 203, 204, 205, -1]


def test_what_was_observed_last_has_no_experts_yet() -> None:
    prompt = Prompt(0, "0", tokens(1), None)
    trajectory = Trajectory(prompt.tokens)
    trajectory.generated(generation([3], 0, np.zeros((1, 2, 2), np.int16)))
    trajectory.observed(tokens(9, 9))
    routed = trajectory.sample(prompt, 0).routed_experts
    assert routed is not None
    assert routed.shape == (4, 2, 2)
    assert (routed[1:] == -1).all()
