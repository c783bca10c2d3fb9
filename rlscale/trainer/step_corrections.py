"""Corrections that need a whole segment or a whole step before the first forward: computed once, on the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.algo import corrections
from rlscale.algo.protocols import CorrectionInputs
from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.schema.algo_config import AlgoConfig
from rlscale.config.schema.correction_config import CorrectionConfig, Level, WeightKind
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Scope
from rlscale.trainer.hook_columns import token_columns
from rlscale.trainer.hook_results import checked_weights
from rlscale.trainer.hooks import build_hook


def importance_weights(
    config: CorrectionConfig, level: Level, inputs: CorrectionInputs
) -> corrections.CorrectionResult:
    """The weights [T] of a configuration, the user's own included.

    Raises UserError when the user's are not a tensor of that shape, or not finite.
    """
    if config.weight is not WeightKind.custom:
        return corrections.importance_weights(
            config.weight.value,
            inputs.log_ratio,
            inputs.mask,
            inputs.segment_sum,
            level=level.value,
            action=config.action.value,
            lower=config.lower,
            upper=config.upper,
        )
    weights = checked_weights(build_hook("correction", config.function)(inputs), inputs.log_ratio, inputs.mask)
    never = torch.zeros_like(inputs.mask)
    return corrections.CorrectionResult(weights, never, never)


@dataclass(frozen=True)
class StepCorrections:
    """Weights and rejection of a whole batch of T tokens."""

    weights: NDArray[np.float64] | None
    """[T] factor on the policy loss; None where the micro-batches compute it themselves."""
    rejected: NDArray[np.bool_]
    """[T] whether the token's segment is left out."""
    clamped: NDArray[np.bool_]
    """[T] whether the exponent of the token's weight passed its bound; rejection has no exponent."""
    metrics: dict[str, float]
    """`rejected_segments` (share of the segments with anything trainable), `correction_mean` (before normalisation)
    and `correction_outside` (share of trainable tokens), as far as they exist."""

    @classmethod
    def of(cls, batch: Batch, algo: AlgoConfig) -> StepCorrections:
        """The corrections of a batch with old_logprobs, rollout_logprobs, versions, loss_mask and step.

        The log-probs of trainable tokens are finite. Raises UserError for weights of the user's that are not.
        """
        needs, trainable = AlgoNeeds.of_algo(algo), batch.column("loss_mask")
        generated = torch.from_numpy(trainable & (batch.column("versions") >= 0))
        old, rollout = (torch.from_numpy(batch.column(name)).double() for name in ("old_logprobs", "rollout_logprobs"))
        log_ratio = corrections.log_ratio(old, rollout, generated)
        row_of_token = np.repeat(np.arange(batch.rows), batch.lengths)
        row = torch.from_numpy(row_of_token)

        def segment_sum(x: Tensor) -> Tensor:
            return x.new_zeros(batch.rows).index_add(0, row, x)[row]

        metrics: dict[str, float] = {}
        rejected = np.zeros(trainable.shape, bool)
        if needs.rejects:
            bounds = algo.correction.rejection
            level = bounds.level.value if bounds.level is not None else None
            limits = {"lower": bounds.lower, "upper": bounds.upper, "veto": bounds.veto}
            rejected = corrections.rejected(log_ratio, generated, segment_sum, level=level, **limits).numpy()
            rows = np.unique(row_of_token[trainable])
            if rows.size:
                metrics["rejected_segments"] = np.unique(row_of_token[trainable & rejected]).size / rows.size
        weights, clamped = None, np.zeros(trainable.shape, bool)
        if needs.weighs_ahead:
            fields = {name: torch.from_numpy(column) for name, column in _of_tokens(batch).items()}
            read = token_columns("correction", fields, torch.from_numpy(trainable), torch.float64)
            inputs = CorrectionInputs(log_ratio, generated, segment_sum, read)
            result = importance_weights(algo.correction, needs.weight_level, inputs)
            clamped = trainable & result.clamped.numpy()
            weights = np.where(trainable, result.weights.double().numpy(), 1.0)
            if trainable.any():
                metrics["correction_mean"] = float(weights[trainable].mean())
                metrics["correction_outside"] = float(result.outside.numpy()[trainable].mean())
            if algo.correction.normalise:
                weights = _normalised(weights, trainable, batch.column("step")[row_of_token])
        return cls(weights, rejected, clamped, metrics)


def _of_tokens(batch: Batch) -> dict[str, NDArray]:
    """The columns that micro-batches carry, [T, ...] each, in the order of the batch's tokens."""
    columns = {name: column for name, column in batch.columns.items() if FIELDS[name].on_ranks}
    repeated = (Scope.segment, Scope.sample)
    return {
        name: np.repeat(column, batch.lengths, axis=0) if FIELDS[name].scope in repeated else column
        for name, column in columns.items()
    }


def _normalised(
    weights: NDArray[np.float64], trainable: NDArray[np.bool_], step: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Weights over their mean over the trainable tokens of their step; all [T]. A step of zeros stays as it is."""
    number = np.where(trainable, step, 0)
    total = np.bincount(number[trainable], weights=weights[trainable], minlength=int(number.max(initial=0)) + 1)
    tokens = np.bincount(number[trainable], minlength=total.shape[0])
    mean = total / np.maximum(tokens, 1)
    return np.where(trainable, weights / np.where(mean > 0, mean, 1.0)[number], 1.0)
