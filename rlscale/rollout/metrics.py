"""Numbers about what was generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlscale.data.sample import NOT_GENERATED, Group


@dataclass(frozen=True)
class RolloutStats:
    """`counters`: totals of the run. `batch`: numbers of the last batch handed out. `intervals`: (start, end) in
    wall-clock seconds since the last call during which at least one request was with an engine."""

    counters: dict[str, int]
    batch: dict[str, float]
    intervals: list[tuple[float, float]]


def batch_metrics(groups: Sequence[Group], version: int) -> dict[str, float]:
    """Reward, length and age of the samples of a batch that the trainer of weight version `version` gets.

    `flat_groups` is the share of groups whose rewards
    are all equal, which teach nothing. Staleness is the trainer's version minus the token's, over generated tokens.
    """
    samples = [sample for group in groups for sample in group.samples]
    rewards = np.array([sample.reward for sample in samples])
    lengths = np.array([sample.response_length for sample in samples])
    versions = np.concatenate([sample.versions for sample in samples])
    staleness = version - versions[versions != NOT_GENERATED]
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "flat_groups": float(np.mean([np.ptp(group.rewards) == 0 for group in groups])),
        "response_length_mean": float(lengths.mean()),
        "response_length_max": float(lengths.max()),
        "truncated_share": float(np.mean([sample.truncated for sample in samples])),
        "staleness_mean": float(staleness.mean()) if staleness.size else 0.0,
        "staleness_max": float(staleness.max()) if staleness.size else 0.0,
        "batch_samples": float(len(samples)),
        "batch_tokens": float(sum(len(sample.tokens) for sample in samples)),
    }
