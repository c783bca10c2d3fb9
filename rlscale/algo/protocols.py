"""What a user's own score, advantage, loss, correction or reduction must look like.

Point `algo.<part>.function._target_` at a function with one of these signatures, or at a class whose instances have it;
further keys of the node are its keyword arguments. `python -m rlscale check-hook path.to.fn` tests one.
Each must be a pure function: the same arguments give the same result, and no argument is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlscale.algo.losses import PolicyLoss, SegmentSum


class Score(Protocol):
    """From rewards to one score per sample."""

    def __call__(self, rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Shapes: rewards [n], groups [n] (group id, any order, any sizes) -> [n] finite."""
        ...


@dataclass(frozen=True)
class AdvantageInputs:
    """What an advantage may read: all segments of an iteration, concatenated. T tokens, R rows (segments), n samples.

    A column that was not computed is None; `algo.advantage.reads` asks for columns.
    """

    scores: NDArray[np.float64]
    """[n] of each sample."""
    sample: NDArray[np.int64]
    """[R] index into `scores` of each segment; the segments of a sample are in the order of its trajectory."""
    lengths: NDArray[np.int64]
    """[R] tokens of each segment."""
    mask: NDArray[np.bool_]
    """[T] whether the token is trainable."""
    old_logprobs: NDArray[np.float64] | None = None
    """[T]"""
    ref_logprobs: NDArray[np.float64] | None = None
    """[T]"""
    teacher_logprobs: NDArray[np.float64] | None = None
    """[T]"""
    values: NDArray[np.float64] | None = None
    """[T] the critic's value read at the position that predicts the token."""


class Advantage(Protocol):
    """From scores to one advantage per token."""

    def __call__(self, inputs: AdvantageInputs) -> NDArray[np.float64]:
        """-> [T] finite, 0 where the mask is False."""
        ...


class Loss(Protocol):
    """A policy loss per token."""

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, segment_sum: SegmentSum
    ) -> PolicyLoss:
        """Shapes: all [T], `logprobs` with gradient; values where the mask is False are 0. T may be 0.

        `segment_sum(x)` gives every token the sum of x over its segment, differentiable: a segment may lie on several
        ranks, so that nothing else may look at other tokens.
        """
        ...


class Correction(Protocol):
    """A weight on every token's policy loss."""

    def __call__(self, log_ratio: Tensor, mask: Tensor, segment_sum: SegmentSum) -> Tensor:
        """Shapes: log_ratio [T] = old - rollout log-probs, 0 where the mask [T] is False -> [T] finite, no gradient.

        `segment_sum`: see `Loss`.
        """
        ...


class Reduction(Protocol):
    """A weight on every token of a step: the step's loss is sum_t weight_t loss_t."""

    def __call__(
        self,
        mask: NDArray[np.bool_],
        *,
        lengths: NDArray[np.int64],
        sample: NDArray[np.int64],
        step: NDArray[np.int64],
        max_response_tokens: int,
    ) -> NDArray[np.float64]:
        """Shapes: mask [T]; lengths, sample, step [R] -> [T] finite, 0 where the mask is False.

        The whole iteration at once, so that a denominator is that of the whole step.
        """
        ...
