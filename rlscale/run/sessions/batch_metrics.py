"""What an iteration's samples were like, as metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlscale.data.batches.batch import Batch
from rlscale.data.duplication import duplication
from rlscale.data.sample import Group, Sample


def batch_metrics(groups: Sequence[Group], batch: Batch, *, rewarded: bool) -> dict[str, float]:
    """What an iteration's samples were like: reward, lengths, truncation, groups without a signal."""
    samples = [sample for group in groups for sample in group.samples]
    responses = [sample.response_length for sample in samples]
    metrics = {
        "response_length": float(np.mean(responses)),
        "response_length_max": float(np.max(responses)),
        "truncated": float(np.mean([sample.truncated for sample in samples])),
        "groups": float(len(groups)),
        "samples": float(len(samples)),
        "batch_tokens": float(batch.tokens_total),
    }
    if rewarded:
        reward = [sample.reward for sample in samples]
        equal = [bool(group.rewards.max() == group.rewards.min()) for group in groups]
        metrics |= {"reward": float(np.mean(reward)), "reward_std": float(np.std(reward))}
        metrics["groups_without_signal"] = float(sum(equal))
    metrics |= _of_difficulty(groups)
    return metrics | _of_turns(samples) | _of_rewards(samples) | _by_source(groups, rewarded=rewarded)


def _of_turns(samples: Sequence[Sample]) -> dict[str, float]:
    """Of episodes with several turns: turns and segments of a sample, the share of tokens after the prompt that the
    policy was shown, and how often a token of a sample is trained on or read again (1: in one segment). Nothing where
    every sample is one response."""
    turns = [_turns(sample) for sample in samples]
    if max(turns) <= 1:
        return {}
    after = sum(sample.continuation_length for sample in samples)
    return {
        "turns": float(np.mean(turns)),
        "turns_max": float(np.max(turns)),
        "observed_share": 1 - sum(sample.response_length for sample in samples) / max(after, 1),
        "segments": float(np.mean([len(sample.segments) for sample in samples])),
        "segment_duplication": duplication(samples),
    }


def _of_difficulty(groups: Sequence[Group]) -> dict[str, float]:
    """The mean of `info["difficulty"]` over the prompts that have one; nothing where none has."""
    found = [group.prompt.info["difficulty"] for group in groups if "difficulty" in group.prompt.info]
    levels = [float(level) for level in found if isinstance(level, int | float) and not isinstance(level, bool)]
    return {"difficulty": float(np.mean(levels))} if levels else {}


def _of_rewards(samples: Sequence[Sample]) -> dict[str, float]:
    """The mean of each part that rewards are made of, over the samples that have it, and how many samples made their
    reward raise, hang or die; nothing where there is nothing of the kind."""
    parts: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in sample.info.get("reward_parts", {}).items():
            parts.setdefault(f"reward_part/{name}", []).append(value)
    crashes = sum("reward_crash" in sample.info for sample in samples)
    return {name: float(np.mean(values)) for name, values in parts.items()} | (
        {"reward_crashes": float(crashes)} if crashes else {}
    )


def _turns(sample: Sample) -> int:
    """Runs of generated tokens: what the policy is shown lies between two turns."""
    mask = sample.loss_mask.astype(np.int8)
    return int((np.diff(mask, prepend=0) == 1).sum())


def _by_source(groups: Sequence[Group], *, rewarded: bool) -> dict[str, float]:
    """The same of each source of a mixture, as `source/<name>/reward`; nothing without a mixture."""
    metrics: dict[str, float] = {}
    for name in sorted({group.prompt.source for group in groups} - {""}):
        own = [group for group in groups if group.prompt.source == name]
        samples = [sample for group in own for sample in group.samples]
        of = f"source/{name}"
        metrics[f"{of}/groups"] = float(len(own))
        metrics[f"{of}/response_length"] = float(np.mean([sample.response_length for sample in samples]))
        metrics |= {f"{of}/{name}": value for name, value in _of_difficulty(own).items()}
        if rewarded:
            equal = [bool(group.rewards.max() == group.rewards.min()) for group in own]
            metrics[f"{of}/reward"] = float(np.mean([sample.reward for sample in samples]))
            metrics[f"{of}/groups_without_signal"] = float(sum(equal))
    return metrics
