"""Made-up samples that fill a training step as full as a configuration allows: for `run.smoke`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscale.config.derived.needs import Needs
from rlscale.config.derived.sizes import Sizes
from rlscale.config.derived.source_sampling import MOST_WORDS, sampled_apart
from rlscale.config.schema import Config
from rlscale.data.batches.fields import SAMPLER_LOGPROBS, SAMPLER_WORDS, SUPPORT
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.engines.sampling_params import truncates

_IN_FLIGHT = 2
"""Micro-batches of a rank for each pipeline stage: the second one meets what the first has left behind."""
_LOGPROB = -3.0


def longest_groups(config: Config, vocabulary: int) -> list[Group]:
    """Groups of samples of the longest prompt and response, of random tokens below `vocabulary` with random rewards.

    As many as fill the micro-batches that a rank has at once, and no more: further ones take time and no memory.
    """
    sizes, rollout = Sizes.of(config), config.rollout
    words = _Words.of(config, vocabulary)
    filling = max(1, config.trainer.max_tokens_per_microbatch // sizes.max_sequence_tokens)
    stages = config.parallel.pipeline * (config.parallel.virtual_pipeline or 1)
    samples = filling * _IN_FLIGHT * stages * sizes.data_parallel
    each = rollout.samples_per_group
    draw = np.random.default_rng(config.run.seed)
    groups = []
    for number in range(-(-samples // each)):
        prompt = Prompt(number, f"smoke-{number}", _tokens(draw, rollout.max_prompt_tokens, vocabulary), None)
        made = [_sample(prompt, place, draw, rollout.max_response_tokens, vocabulary) for place in range(each)]
        for sample in made:
            sample.columns |= words.columns(sample)
        groups.append(Group(prompt, made))
    return groups


@dataclass(frozen=True)
class _Words:
    """What engines would name besides each token that they draw: how many words, made up here."""

    vocabulary: int
    left: int
    """That were left to draw from; 0 where all were."""
    likeliest: int

    @staticmethod
    def of(config: Config, vocabulary: int) -> _Words:
        """As many as the configuration can make it; nothing is drawn in supervised training."""
        needs, rollout = Needs.of(config), config.rollout
        sampled = () if needs.supervised else (rollout, *sampled_apart(rollout, config.data).values())
        widths = [one.top_k if one.top_k > 0 else MOST_WORDS for one in sampled if truncates(one)]
        return _Words(vocabulary, min(max(widths, default=0), vocabulary), needs.sampler_words)

    def columns(self, sample: Sample) -> dict[str, np.ndarray[Any, Any]]:
        """The columns of a sample, [tokens, words] each: the token and those that follow it in the vocabulary."""
        found: dict[str, np.ndarray[Any, Any]] = {}
        if self.left:
            found[SUPPORT.name] = self._named(sample, self.left, self.left)
        if self.likeliest:
            words = self._named(sample, self.likeliest, min(self.likeliest, self.left or self.vocabulary))
            each = -math.log(2 * self.likeliest)  # all of them together are half of the probability
            found[SAMPLER_WORDS.name] = words
            found[SAMPLER_LOGPROBS.name] = np.where(words >= 0, each, SAMPLER_LOGPROBS.fill).astype(np.float32)
        return found

    def _named(self, sample: Sample, width: int, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        """`count` words at each token that was drawn, filled up with -1 to `width`; -1 alone at all others."""
        named = np.full((len(sample.tokens), width), -1, np.int32)
        named[:, :count] = (sample.tokens[:, None] + np.arange(count)) % self.vocabulary
        named[~sample.loss_mask] = -1
        return named


def _sample(prompt: Prompt, place: int, draw: np.random.Generator, length: int, vocabulary: int) -> Sample:
    logprobs = np.full(length, _LOGPROB, np.float32)
    sample = Sample.from_response(prompt, place, _tokens(draw, length, vocabulary), logprobs, 0, "length")
    sample.reward = float(draw.random())
    return sample


def _tokens(draw: np.random.Generator, count: int, vocabulary: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return draw.integers(0, vocabulary, count).astype(np.int32)
