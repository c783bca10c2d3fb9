"""What is asked of the batches of a rollout service: their size, their samples, and where the tokens are from."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from rlscale.data.sample import Group, Sample
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.run.contracts.recorded_engine import EngineAnswer
from rlscale.trainer.hook_contract.findings import Report

_CLOSE = 1e-4
"""By how much a log-prob may differ from what the engine said: it travels as float32."""


def check_batch(
    report: Report, groups: Any, spec: RolloutSpec, version: int, answers: Collection[EngineAnswer]
) -> None:
    """Checks of the batch that is trained on at `version`; ends the test where it is no list of whole groups.

    `answers`: what engines have answered so far.
    """
    size, each = spec.rollout.groups_per_iteration, spec.rollout.samples_per_group
    right = isinstance(groups, list) and all(isinstance(group, Group) for group in groups)
    lengths = [len(group.samples) for group in groups] if right else []
    found = f"groups of {lengths} samples" if right else f"{type(groups).__name__}"
    report.add("batch", f"a list of {size} groups of {each} samples", lengths == [each] * size, found)
    report.stop_if_failed("batch")
    indices = [group.prompt.index for group in groups]
    report.add("prompts", "groups of different prompts", len(set(indices)) == size, f"prompts {indices}")
    for group in groups:
        for place, sample in enumerate(group.samples):
            _check_sample(report, group, place, sample)
            _check_tokens(report, sample, answers)
            oldest = version - int(sample.versions[sample.loss_mask].min(initial=version))
            text = f"{oldest} versions behind version {version}"
            report.add("staleness", "no token over the bound", oldest <= spec.rollout.max_staleness, text)


def _check_sample(report: Report, group: Group, place: int, sample: Sample) -> None:
    belongs = (sample.prompt_index, sample.index) == (group.prompt.index, place)
    text = f"prompt {sample.prompt_index}, index {sample.index} at place {place} of prompt {group.prompt.index}"
    report.add("order", "samples of the group's prompt, in the order of their index", belongs, text)
    report.add("reward", "a finite number", math.isfinite(sample.reward), f"{sample.reward}")
    head = sample.tokens[: sample.prompt_length].tolist()
    begins = head == group.prompt.tokens.tolist()
    report.add("prompt", "each sample begins with its prompt", begins, "it does" if begins else "with other tokens")
    shapes = {len(column) for column in (sample.tokens, sample.loss_mask, sample.rollout_logprobs, sample.versions)}
    report.add("arrays", "one value for each token", len(shapes) == 1, f"lengths {sorted(shapes)}")
    report.stop_if_failed("arrays")


def _check_tokens(report: Report, sample: Sample, answers: Collection[EngineAnswer]) -> None:
    """Whether what is trained on is an engine's answer: its tokens, its log-probs, its versions."""
    mask = sample.loss_mask
    tokens = tuple(sample.tokens[mask].tolist())
    logprobs, versions = sample.rollout_logprobs[mask], sample.versions[mask].tolist()
    alike = [answer for answer in answers if answer.tokens == tokens]
    text = "it is" if alike else f"{list(tokens)[:8]} is none"
    report.add("tokens", "what is trained on is an answer of an engine", bool(alike), text)
    if alike:
        close = any(np.allclose(answer.logprobs, logprobs, atol=_CLOSE) for answer in alike)
        text = "they are" if close else f"{logprobs[:4]} for {np.array(alike[0].logprobs[:4])}"
        report.add("log-probs", "those that the engine gave", close, text)
        told = any(list(answer.versions) == versions for answer in alike)
        text = "they are" if told else f"{sorted(set(versions))} for {sorted(set(alike[0].versions))}"
        report.add("versions", "of the weights that generated the tokens", told, text)
