"""From the rewards of a group to one score per sample. Groups are found by id, so they may differ in size and order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = ("none", "group_mean_std", "group_mean", "leave_one_out", "raw")

STD_EPS = 1e-6


def score(kind: str, rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score every sample by the named kind.

    Shapes: rewards [n], groups [n] (group id of each sample, any order, any sizes) -> [n] float64.
    `none` gives zeros whatever the rewards are, `raw` the rewards, the others compare a sample with its group. A group
    whose rewards are all equal, or that has one sample, scores exactly 0 in every grouped kind.
    Raises ValueError for an unknown kind, unequal shapes or a reward that is not finite: a failed reward has none.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    groups = np.asarray(groups, dtype=np.int64)
    if rewards.ndim != 1 or rewards.shape != groups.shape:
        raise ValueError(f"rewards {rewards.shape} and groups {groups.shape} must both be [n]")
    if kind == "none":
        return np.zeros_like(rewards)
    if not np.isfinite(rewards).all():
        raise ValueError("a reward is not finite; drop failed samples before scoring")
    if kind == "raw":
        return rewards.copy()
    if kind == "group_mean_std":
        return group_mean_std(rewards, groups)
    if kind == "group_mean":
        return group_mean(rewards, groups)
    if kind == "leave_one_out":
        return leave_one_out(rewards, groups)
    raise ValueError(f"unknown score {kind!r}; known are {', '.join(KINDS)}")


def group_mean(rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Reward minus the mean of its group: r - mean_g.

    Shapes: rewards [n], groups [n] -> [n]. Source: Dr. GRPO (arXiv 2503.20783), section 3.2.
    """
    member, size = _members(groups)
    centred = rewards - (np.bincount(member, weights=rewards) / size)[member]
    return np.where(_varies(rewards, member, size)[member], centred, 0.0)


def group_mean_std(rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Reward minus the mean of its group, over the group's unbiased standard deviation: (r - mean_g) / (std_g + 1e-6).

    Shapes: rewards [n], groups [n] -> [n]. Source: GRPO, DeepSeekMath (arXiv 2402.03300), section 4.1.2.
    """
    member, size = _members(groups)
    centred = group_mean(rewards, groups)
    variance = np.bincount(member, weights=centred**2) / np.maximum(size - 1, 1)
    return centred / (np.sqrt(variance) + STD_EPS)[member]


def leave_one_out(rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Reward minus the mean of the other samples of its group: r - mean_{j != i} r_j.

    Shapes: rewards [n], groups [n] -> [n]. Equal to n_g / (n_g - 1) times `group_mean`.
    Source: RLOO (arXiv 2402.14740), section 3.
    """
    member, size = _members(groups)
    return group_mean(rewards, groups) * (size / np.maximum(size - 1, 1))[member]


def _members(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the groups 0..G-1: (number of each sample's group [n], size of each group [G])."""
    _, member, size = np.unique(groups, return_inverse=True, return_counts=True)
    return member.reshape(-1), size


def _varies(rewards: NDArray[np.float64], member: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a group [G] holds two different rewards; rounding of a mean must not turn equal rewards into scores."""
    highest = np.full(size.shape, -np.inf)
    lowest = np.full(size.shape, np.inf)
    np.maximum.at(highest, member, rewards)
    np.minimum.at(lowest, member, rewards)
    return highest > lowest
