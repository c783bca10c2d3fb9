"""Measuring the policy on prompts of its own, with sampling parameters and seeds of its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlscale.config.derived.eval_sets import EvalSet
from rlscale.config.errors import UserError
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.data.configured_source import build_source
from rlscale.data.prompt_queue import CheckLabels, PromptQueue, none_fits
from rlscale.data.prompts.overlap import KnowsPrompts
from rlscale.data.prompts.sources import PromptSource
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.episode import Place, Player, SampleFailed
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.seeds import EVALUATION, request_seed


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found.

    `pass_at_k[k]` is the share of prompts solved by at least one of k samples (unbiased estimate); `mean_length` in
    response tokens; `failures` samples that could not be generated or scored, in no other number; `dropped` prompts
    that were too long or bad; `trained_on` prompts that are in the training data too (None: its source cannot tell);
    `groups` the first few prompts with their samples, for the report.
    """

    version: int
    pass_at_k: dict[int, float]
    mean_reward: float
    mean_length: float
    truncated_share: float
    prompts: int
    samples: int
    failures: int
    dropped: int
    trained_on: int | None
    groups: list[Group]

    @property
    def pass_at_1(self) -> float:
        """Share of samples that solve their prompt, averaged over prompts."""
        return self.pass_at_k[1]


def pass_at_k(solved: int, samples: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples solves, given `solved` of `samples`: 1 - C(n-c,k)/C(n,k).

    Source: Chen et al. 2021 (arXiv 2107.03374), eq. 1. ValueError if k > samples.
    """
    if k > samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    return 1.0 - math.comb(samples - solved, k) / math.comb(samples, k)


@dataclass(frozen=True)
class EvalPrompts:
    """The prompts of every evaluation; `dropped` and `trained_on` are those of `EvalResult`."""

    prompts: list[Prompt]
    dropped: int
    trained_on: int | None


def eval_encoder(spec: RolloutSpec, chosen: EvalSet) -> PromptEncoder:
    """What makes tokens of an evaluation set's prompts. UserError if they cannot be encoded."""
    data = chosen.config.data
    assert data is not None  # a set has data
    return PromptEncoder(
        spec.tokenizer_folder, data, spec.rollout.max_prompt_tokens, spec.chat_template, chosen.data_key
    )


def eval_prompts(
    chosen: EvalSet,
    encoder: PromptEncoder,
    trained: PromptSource | None = None,
    check_labels: CheckLabels = None,
) -> EvalPrompts:
    """The prompts of every evaluation of a set, always the same: the first of one epoch that fit and are not bad.

    `trained`: the source of the training prompts, to compare with. UserError if there are none, or too many are bad.
    """
    config, data, key = chosen.config, chosen.config.data, chosen.data_key
    assert data is not None  # a set has data
    source = build_source(data, key)
    if isinstance(check_labels, Mapping):
        check_labels = check_labels.get(chosen.judge, check_labels.get(""))
    queue = PromptQueue(source, encoder, key, data.max_bad_rate, check_labels)
    wanted = len(source) if config.prompts is None else min(config.prompts, len(source))
    prompts: list[Prompt] = []
    left = len(source)
    while len(prompts) < wanted and left:
        at_once = min(wanted - len(prompts), left)
        left -= at_once
        prompts += queue.next(at_once)
    if not prompts:
        raise none_fits(key, len(source), encoder.limits)
    asked = [prompt.messages for prompt in prompts]
    trained_on = trained.holds(asked) if isinstance(trained, KnowsPrompts) else None
    judged = [replace(prompt, source=chosen.judge) for prompt in prompts]
    return EvalPrompts(judged, queue.dropped + queue.bad, trained_on)


async def evaluate(
    spec: RolloutSpec, chosen: EvalPrompts, episodes: Player, admission: Admission, version: int
) -> EvalResult:
    """Generate and score `eval.samples_per_prompt` samples of every prompt. UserError if too many fail."""
    prompts = chosen.prompts

    async def one(prompt: Prompt, index: int) -> Sample | None:
        def seed(turn: int) -> int:
            return request_seed(spec.seed, prompt.index, index, turn, EVALUATION)

        try:
            return await episodes.play(prompt, Place(index, seed, Attempt(lambda: version, exactly=True)), admission)
        except SampleFailed:
            return None

    wanted = spec.eval.samples_per_prompt
    tasks = [asyncio.create_task(one(prompt, index)) for prompt in prompts for index in range(wanted)]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    for sample in found:
        _pinned(sample, version)
    groups = [
        Group(prompt, [sample for sample in found[number * wanted : (number + 1) * wanted] if sample is not None])
        for number, prompt in enumerate(prompts)
    ]
    return summarize(spec.eval, groups, chosen, version, spec.report_samples)


def _pinned(sample: Sample | None, version: int) -> None:
    """Every token that was generated is of the weights that are measured, or the evaluation is of no use."""
    if sample is not None and (others := set(sample.versions[sample.loss_mask].tolist()) - {version}):
        raise RuntimeError(
            f"an evaluation of weight version {version} got tokens of version {', '.join(map(str, sorted(others)))}: "
            "its engines were given others meanwhile"
        )


def summarize(config: EvalConfig, groups: Sequence[Group], chosen: EvalPrompts, version: int, keep: int) -> EvalResult:
    """The numbers of evaluated groups, of which those whose samples all failed count in none. UserError if all did."""
    scored = [group for group in groups if group.samples]
    samples = [sample for group in scored for sample in group.samples]
    if not samples:
        raise UserError("every sample of the evaluation failed; see the log of the rollout")
    counts = [(int((group.rewards >= config.success_reward).sum()), len(group.samples)) for group in scored]
    ks = sorted({1, *config.pass_k})
    # A prompt that lost samples to failures may have too few left for a large k.
    by_k = {k: [pass_at_k(solved, n, k) for solved, n in counts if n >= k] for k in ks}
    return EvalResult(
        version=version,
        pass_at_k={k: float(np.mean(values)) for k, values in by_k.items() if values},
        mean_reward=float(np.mean([sample.reward for sample in samples])),
        mean_length=float(np.mean([sample.response_length for sample in samples])),
        truncated_share=float(np.mean([sample.truncated for sample in samples])),
        prompts=len(scored),
        samples=len(samples),
        failures=len(groups) * config.samples_per_prompt - len(samples),
        dropped=chosen.dropped,
        trained_on=chosen.trained_on,
        groups=list(scored[:keep]),
    )
