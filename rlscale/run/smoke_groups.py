"""Made-up samples that fill a training step as full as a configuration allows: for `run.smoke`."""

from __future__ import annotations

import numpy as np

from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config
from rlscale.data.sample import Group, Prompt, Sample

_IN_FLIGHT = 2
"""Micro-batches of a rank for each pipeline stage: the second one meets what the first has left behind."""
_LOGPROB = -3.0


def longest_groups(config: Config, vocabulary: int) -> list[Group]:
    """Groups of samples of the longest prompt and response, of random tokens below `vocabulary` with random rewards.

    As many as fill the micro-batches that a rank has at once, and no more: further ones take time and no memory.
    """
    sizes, rollout = Sizes.of(config), config.rollout
    filling = max(1, config.trainer.max_tokens_per_microbatch // sizes.max_sequence_tokens)
    stages = config.parallel.pipeline * (config.parallel.virtual_pipeline or 1)
    samples = filling * _IN_FLIGHT * stages * sizes.data_parallel
    each = rollout.samples_per_group
    draw = np.random.default_rng(config.run.seed)
    groups = []
    for number in range(-(-samples // each)):
        prompt = Prompt(number, f"smoke-{number}", _tokens(draw, rollout.max_prompt_tokens, vocabulary), None)
        made = [_sample(prompt, place, draw, rollout.max_response_tokens, vocabulary) for place in range(each)]
        groups.append(Group(prompt, made))
    return groups


def _sample(prompt: Prompt, place: int, draw: np.random.Generator, length: int, vocabulary: int) -> Sample:
    logprobs = np.full(length, _LOGPROB, np.float32)
    sample = Sample.from_response(prompt, place, _tokens(draw, length, vocabulary), logprobs, 0, "length")
    sample.reward = float(draw.random())
    return sample


def _tokens(draw: np.random.Generator, count: int, vocabulary: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return draw.integers(0, vocabulary, count).astype(np.int32)
