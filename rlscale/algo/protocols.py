"""What a user's own score, advantage, loss, correction or reduction must look like.

Each is called with one object, its inputs, to which later versions may add. Point `algo.<part>.function._target_` at a
function that takes it, or at a class whose instances do; further keys of the node are its keyword arguments.
`python -m rlscale check-hook path.to.fn` tests one. Each must be a pure function: the same inputs give the same
result, and nothing in them is changed.

All inputs have `columns`: what else the batch has, by the name of its field (`rlscale.data.batches.fields`). Columns
that the samples, the engines or your own code bring are just there. Columns that a model computes are there where
`algo.advantage.reads` or `algo.loss.reads` names them. Reading one that is not there stops the run with a line that
says which there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlscale.algo.losses import PolicyLoss, SegmentSum


@dataclass(frozen=True)
class ScoreInputs:
    """What a score may read: the n samples of an iteration."""

    rewards: NDArray[np.float64]
    """[n]"""
    groups: NDArray[np.int64]
    """[n] group id, any order, any sizes."""
    columns: Mapping[str, NDArray[Any]]
    """[n, ...] each: those with one value per sample."""


class Score(Protocol):
    """From rewards to one score per sample."""

    def __call__(self, inputs: ScoreInputs) -> NDArray[np.float64]:
        """-> [n] finite."""
        ...


@dataclass(frozen=True)
class AdvantageInputs:
    """What an advantage may read: all segments of an iteration. T tokens, R rows (segments), n samples."""

    scores: NDArray[np.float64]
    """[n] of each sample."""
    sample: NDArray[np.int64]
    """[R] index into `scores` of each segment; the segments of a sample are in the order of its trajectory."""
    lengths: NDArray[np.int64]
    """[R] tokens of each segment."""
    mask: NDArray[np.bool_]
    """[T] whether the token is trainable."""
    columns: Mapping[str, NDArray[Any]]
    """Of tokens [T, ...], numbers 0 where the mask is False; of segments and samples [R, ...].

    By models: old_logprobs, ref_logprobs, teacher_logprobs, and values, which the critic read at the position that
    predicts the token."""


class Advantage(Protocol):
    """From scores to one advantage per token."""

    def __call__(self, inputs: AdvantageInputs) -> NDArray[np.float64]:
        """-> [T] finite, 0 where the mask is False."""
        ...


@dataclass(frozen=True)
class LossInputs:
    """What a policy loss may read: T tokens of a micro-batch on this rank. T may be 0."""

    logprobs: Tensor
    """[T] by the policy, with gradient; 0 where the mask is False, as are the next two."""
    old_logprobs: Tensor
    """[T] by the policy before the iteration's first step."""
    advantages: Tensor
    """[T]"""
    mask: Tensor
    """[T] bool, whether the token is trainable."""
    segment_sum: SegmentSum
    """`segment_sum(x)` gives every token the sum of x [T] over its segment, differentiable. A segment may lie on
    several ranks: nothing else may look at other tokens."""
    columns: Mapping[str, Tensor]
    """[T, ...] each, 0 where the mask is False; a segment's or sample's value stands at each of its tokens."""


class Loss(Protocol):
    """A policy loss per token."""

    def __call__(self, inputs: LossInputs) -> PolicyLoss:
        """-> tensors [T]; what they say where the mask is False is not read."""
        ...


@dataclass(frozen=True)
class CorrectionInputs:
    """What a correction may read: T tokens of a micro-batch, or of the whole iteration."""

    log_ratio: Tensor
    """[T] old - rollout log-probs, 0 where the mask is False."""
    mask: Tensor
    """[T] bool, whether the token is trainable and an engine generated it."""
    segment_sum: SegmentSum
    """See `LossInputs`."""
    columns: Mapping[str, Tensor]
    """As of `LossInputs`."""


class Correction(Protocol):
    """A weight on every token's policy loss."""

    def __call__(self, inputs: CorrectionInputs) -> Tensor:
        """-> [T] finite, no gradient."""
        ...


@dataclass(frozen=True)
class ReductionInputs:
    """What a reduction may read: the whole iteration at once, so that a denominator is that of the whole step."""

    mask: NDArray[np.bool_]
    """[T] whether the token is trainable."""
    lengths: NDArray[np.int64]
    """[R] tokens of each segment."""
    sample: NDArray[np.int64]
    """[R] number of each segment's sample."""
    step: NDArray[np.int64]
    """[R] optimizer step (of one epoch) that trains on the segment."""
    max_response_tokens: int
    """The most tokens that a response can have."""
    columns: Mapping[str, NDArray[Any]]
    """As of `AdvantageInputs`."""


class Reduction(Protocol):
    """A weight on every token of a step: the step's loss is sum_t weight_t loss_t."""

    def __call__(self, inputs: ReductionInputs) -> NDArray[np.float64]:
        """-> [T] finite, 0 where the mask is False."""
        ...
