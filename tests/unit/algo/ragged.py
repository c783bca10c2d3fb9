"""Random ragged input for the mathematics: unequal groups, tokens masked in the middle, several segments per sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Ragged:
    """One step's worth of columns; see `ragged`."""

    rewards: NDArray[np.float64]
    groups: NDArray[np.int64]
    sample: NDArray[np.int64]
    lengths: NDArray[np.int64]
    step: NDArray[np.int64]
    mask: NDArray[np.bool_]
    logprobs: NDArray[np.float64]
    old: NDArray[np.float64]
    ref: NDArray[np.float64]
    rollout: NDArray[np.float64]
    versions: NDArray[np.int64]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First token of each row, and the end [rows + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def row_of_token(self) -> NDArray[np.int64]:
        """Row number of each token [T]."""
        return np.repeat(np.arange(self.lengths.shape[0]), self.lengths)


def ragged(seed: int = 0, *, groups: int = 5, noise: float = 0.3, steps: int = 1) -> Ragged:
    """Groups of 1 to 5 samples of 1 to 3 segments of 1 to 9 tokens, in random order; sample 1 has nothing trainable."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 6, groups)
    sizes[0] = 3
    group_of_sample = draw.permutation(np.repeat(np.arange(groups) * 7 + 3, sizes))
    samples = group_of_sample.shape[0]
    segments = draw.integers(1, 4, samples)
    sample = draw.permutation(np.repeat(np.arange(samples), segments))
    lengths = draw.integers(1, 10, sample.shape[0])
    tokens = int(lengths.sum())
    mask = draw.random(tokens) < 0.6
    mask[np.repeat(sample, lengths) == 1] = False
    step_of_sample = draw.integers(0, steps, samples)
    old = -draw.exponential(1.0, tokens)
    return Ragged(
        rewards=draw.choice([0.0, 0.25, 1.0], samples),
        groups=group_of_sample,
        sample=sample,
        lengths=lengths,
        step=step_of_sample[sample],
        mask=mask,
        logprobs=old + noise * draw.normal(size=tokens),
        old=old,
        ref=old + noise * draw.normal(size=tokens),
        rollout=old + 0.01 * draw.normal(size=tokens),
        versions=np.where(mask, draw.integers(3, 6, tokens), -1),
    )
