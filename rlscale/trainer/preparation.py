"""What is computed once per iteration on the whole batch, before it is divided: advantages, weights, corrections.

Everything here may look at more than one segment, is float64 in one process, and so cannot depend on how a batch is
cut. What looks at single tokens and segments only is in `objective`, on the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from rlscale.algo import advantages as estimators
from rlscale.algo.critic import explained_variance
from rlscale.algo.kl import kl
from rlscale.algo.protocols import AdvantageInputs, ReductionInputs, ScoreInputs
from rlscale.algo.reduction import token_weights
from rlscale.algo.scores import score
from rlscale.algo.trajectories import Trajectories
from rlscale.algo.turns import Turns
from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    BaselineAdvantage,
    BroadcastAdvantage,
    CustomAdvantage,
    GaeAdvantage,
    NoAdvantage,
    ReductionKind,
    ReturnsAdvantage,
    ScoreKind,
)
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, SAMPLER_WORDS, STALE, TURN_REWARD, Maker
from rlscale.trainer.hook_columns import row_columns, sample_columns
from rlscale.trainer.hook_results import checked_array
from rlscale.trainer.hooks import build_hook
from rlscale.trainer.step_corrections import StepCorrections


def prepare(batch: Batch, algo: AlgoConfig, *, max_response_tokens: int) -> tuple[Batch, dict[str, float]]:
    """The batch with everything that its steps read, and metrics of what was computed.

    The batch has the columns loss_mask, sample, step, group, reward, rollout_logprobs, versions and those of
    the passes that `AlgoNeeds` says (supervised: loss_mask, sample and step). Added are

        loss_weight            weight of the token in its step's loss; 0 in rejected segments and where the column
                               `stale` says so, while the denominators stay those of the original masks
        advantages             not for supervised training
        returns, value_weight  for a critic: the targets of its values, and weights of a mean over the step's tokens
        correction             factor on the policy loss, where it needs more than single tokens (`weighs_ahead`)
        old_logprobs           with `correction.bypass`: the engine's log-probs

    A `none` score never reads rewards. Whitening comes last. The critic's targets contain the KL term in the reward as
    the actor's advantages do; rejection touches the policy alone. The metric `clamped_tokens_before` counts the tokens
    whose exponent was clamped here. Raises UserError for a hook whose result cannot be used, for a column in which a
    model left numbers that are not finite, or a KL term that nothing reads, ValueError for columns that contradict
    each other.
    """
    columns = _Columns.of(batch)
    weights = _loss_weights(batch, columns, algo, max_response_tokens)
    needs = AlgoNeeds.of_algo(algo)
    if needs.supervised:
        return batch.with_column("loss_weight", weights), {}
    _refuse_unusable(batch, columns.mask, needs)
    if algo.correction.bypass:
        batch = _bypassed(batch, columns.mask)
    made: dict[str, NDArray] = {}
    metrics: dict[str, float] = {}
    clamped = np.zeros(columns.mask.shape, bool)
    if needs.weighs_ahead or needs.rejects:
        corrections = StepCorrections.of(batch, algo)
        weights = np.where(corrections.rejected, 0.0, weights)
        metrics |= corrections.metrics
        clamped |= corrections.clamped
        if corrections.weights is not None:
            made["correction"] = corrections.weights
    made["loss_weight"] = _without_stale(batch, weights)
    penalty, penalty_clamped = _penalty(batch, columns, algo)
    advantages, targets = _advantages(batch, columns, algo, penalty, metrics)
    if targets is not None:
        made["returns"] = targets
        made["value_weight"] = _without_stale(batch, columns.weights("token_mean", max_response_tokens))
        metrics |= _of_values(batch.column("values"), targets, columns.mask)
    made["advantages"] = advantages
    if columns.mask.any():
        metrics["clamped_tokens_before"] = float((clamped | penalty_clamped).sum())
    for name, column in made.items():
        batch = batch.with_column(name, column)
    return batch, metrics


def _refuse_unusable(batch: Batch, mask: NDArray[np.bool_], needs: AlgoNeeds) -> None:
    """UserError for numbers that are not finite, and where words that the algorithm reads are missing."""
    _refuse_not_finite(batch, mask)
    if needs.sampler_words:
        _refuse_without_words(batch, mask, needs.sampler_words)


def _of_values(values: NDArray, targets: NDArray, mask: NDArray[np.bool_]) -> dict[str, float]:
    """Metrics of a critic's values and of what they should have been, [T] each."""
    found = _mean("value_mean", values, mask) | _mean("return_mean", targets, mask)
    return found | ({"explained_variance": explained_variance(values, targets, mask)} if mask.any() else {})


def _refuse_without_words(batch: Batch, mask: NDArray[np.bool_], asked: int) -> None:
    """UserError where the samples do not name as many of the engine's words for each token as are asked for."""
    setting = f"algo.correction.score_centering={asked}"
    if SAMPLER_WORDS.name not in batch.columns:
        raise UserError(
            f"{setting}: the samples do not bring the engine's likeliest words; generate them with that setting, or "
            "set it to null"
        )
    words = batch.column(SAMPLER_WORDS.name)
    if words.shape[1] != asked:
        raise UserError(f"{setting}: the samples bring {words.shape[1]} words for each token; set it to that")
    generated = mask & (batch.column("versions") >= 0)
    if missing := int((words[generated] < 0).all(1).sum()):
        raise UserError(f"{setting}: {missing} generated tokens come without the engine's words; generate them anew")


@dataclass(frozen=True)
class _Columns:
    """A batch by samples: T tokens, R rows (segments), n samples."""

    mask: NDArray[np.bool_]
    """[T]"""
    lengths: NDArray[np.int64]
    """[R]"""
    step: NDArray[np.int64]
    """[R]"""
    sample: NDArray[np.int64]
    """[R] number of the row's sample, 0 .. n - 1."""
    first: NDArray[np.int64]
    """[n] the first row of each sample."""

    @classmethod
    def of(cls, batch: Batch) -> _Columns:
        _, first, sample = np.unique(batch.column("sample"), return_index=True, return_inverse=True)
        mask, step = batch.column("loss_mask"), batch.column("step")
        return cls(mask, batch.lengths, step, sample.reshape(-1), first)

    def of_samples(self, batch: Batch, name: str) -> NDArray:
        """A column that has one value per sample: [R] -> [n]. ValueError when rows of a sample disagree."""
        rows = batch.column(name)
        samples: NDArray = rows[self.first]
        if not np.array_equal(samples[self.sample], rows, equal_nan=rows.dtype.kind == "f"):
            raise ValueError(f"segments of one sample have different values of {name!r}")
        return samples

    def weights(self, kind: str, max_response_tokens: int) -> NDArray[np.float64]:
        """Weights of a shipped reduction [T]."""
        rows = {"lengths": self.lengths, "sample": self.sample, "step": self.step}
        return token_weights(kind, self.mask, **rows, max_response_tokens=max_response_tokens)


def _loss_weights(batch: Batch, columns: _Columns, algo: AlgoConfig, max_response_tokens: int) -> NDArray[np.float64]:
    reduction = algo.reduction
    if reduction.kind is not ReductionKind.custom:
        return columns.weights(reduction.kind.value, max_response_tokens)
    hook = build_hook("reduction", reduction.function)
    rows = (columns.lengths, columns.sample, columns.step)
    weights = hook(ReductionInputs(columns.mask, *rows, max_response_tokens, row_columns("reduction", batch)))
    return _masked(checked_array("reduction", weights, columns.mask.shape), columns.mask)


def _without_stale(batch: Batch, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of tokens [T], 0 for those that `rollout.stale` leaves out."""
    return np.where(batch.column(STALE), 0.0, weights) if STALE in batch else weights


def _advantages(
    batch: Batch,
    columns: _Columns,
    algo: AlgoConfig,
    penalty: NDArray[np.float64] | None,
    metrics: dict[str, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The advantages as the steps read them and the critic's targets, both [T]; adds metrics."""
    mask = columns.mask
    scores = _scores(batch, columns, algo)
    if penalty is not None:
        metrics |= _mean("kl_reward", penalty, mask)
    advantages, targets = _estimate(algo, batch, columns, scores, penalty)
    if algo.distil_coef != 0.0:
        old, teacher = batch.column("old_logprobs"), batch.column("teacher_logprobs")
        metrics |= _mean("teacher_kl", old - teacher, mask)
        advantages = estimators.distil(advantages, old, teacher, mask, algo.distil_coef)
    if mask.any():
        metrics["advantage_mean"] = float(advantages[mask].mean())
        metrics["advantage_std"] = float(advantages[mask].std())
    return (estimators.whiten(advantages, mask) if algo.whiten else advantages), targets


def _scores(batch: Batch, columns: _Columns, algo: AlgoConfig) -> NDArray[np.float64]:
    """One score per sample [n]."""
    kind = algo.score.kind
    if kind is ScoreKind.none:
        return np.zeros(columns.first.shape[0])
    rewards, groups = columns.of_samples(batch, "reward"), columns.of_samples(batch, "group")
    if kind is not ScoreKind.custom:
        return score(kind.value, rewards, groups)
    of_samples = sample_columns("score", batch, lambda name: columns.of_samples(batch, name))
    scores = build_hook("score", algo.score.function)(ScoreInputs(rewards, groups, of_samples))
    return checked_array("score", scores, rewards.shape)


def _penalty(batch: Batch, columns: _Columns, algo: AlgoConfig) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_]]:
    """The KL term of every token's reward before its coefficient [T], 0 where nothing is trainable, None without one.

    And the tokens [T] whose exponent passed its bound.
    """
    needs = AlgoNeeds.of_algo(algo)
    if not needs.kl_in_reward:
        return None, np.zeros(columns.mask.shape, bool)
    if not needs.advantage_reads_kl:
        raise UserError(
            f"algo.kl.placement=reward: {type(algo.advantage).__name__} never reads a KL term in the reward; "
            "choose algo/kl=loss or algo/kl=none, or algo/advantage=returns|baseline|gae"
        )
    old, ref = (
        torch.from_numpy(_masked(batch.column(name), columns.mask)) for name in ("old_logprobs", "ref_logprobs")
    )
    estimate, clamped = kl(algo.kl.chosen.value, old, ref)
    return estimate.numpy(), clamped.numpy()


def _estimate(
    algo: AlgoConfig,
    batch: Batch,
    columns: _Columns,
    scores: NDArray[np.float64],
    penalty: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The advantages of an estimator, and the targets of the critic if there is one, both [T]."""
    config, mask = algo.advantage, columns.mask
    if isinstance(config, NoAdvantage):
        return np.zeros(mask.shape), None
    if isinstance(config, CustomAdvantage):
        return _custom_advantage(config, batch, columns, scores)
    trajectories = Trajectories.of(columns.sample, columns.lengths, mask)
    turns = _turns(batch, columns, algo, trajectories)
    if isinstance(config, BroadcastAdvantage | BaselineAdvantage):
        rows = (columns.sample, columns.lengths, mask)
        groups = columns.of_samples(batch, "group")
        kind = algo.score.kind.value
        each = estimators.broadcast(scores, *rows) if turns is None else turns.spread(partial(score, kind), groups)
        if isinstance(config, BaselineAdvantage):
            each = estimators.baseline(each, penalty, algo.kl.coef, mask)
        return each, None
    rho = estimators.reward_tokens(scores, penalty, algo.kl.coef, trajectories, turns)
    if isinstance(config, GaeAdvantage):
        values, discounts = batch.column("values"), {"gamma": config.gamma, "lam": config.lam}
        return estimators.gae(rho, values, trajectories, **discounts, turns=turns)
    if isinstance(config, ReturnsAdvantage):
        return estimators.returns(rho, trajectories, gamma=config.gamma, turns=turns), None
    raise UserError(f"algo.advantage is {type(config).__name__}, which has no estimator")


def _turns(batch: Batch, columns: _Columns, algo: AlgoConfig, trajectories: Trajectories) -> Turns | None:
    """The turns that have a reward each; None where all are credited with the sample's."""
    if algo.turn_discount is None:
        return None
    if TURN_REWARD.name not in batch:
        raise UserError(
            "algo.turn_discount: the samples do not have the rewards of their turns, as those do that were stored by a "
            "run without it; set it to null"
        )
    rewards = columns.of_samples(batch, "reward")
    return Turns.of(batch.column(TURN_REWARD.name), rewards, algo.turn_discount, trajectories)


def _custom_advantage(
    config: CustomAdvantage, batch: Batch, columns: _Columns, scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The user's advantages. A critic that they read learns the undiscounted sum of the scores that follow."""
    read = row_columns("advantage", batch, config.reads)
    inputs = AdvantageInputs(scores, columns.sample, columns.lengths, columns.mask, read)
    result = checked_array("advantage", build_hook("advantage", config.function)(inputs), columns.mask.shape)
    if "values" not in config.reads:
        return _masked(result, columns.mask), None
    trajectories = Trajectories.of(columns.sample, columns.lengths, columns.mask)
    rho = estimators.reward_tokens(scores, None, 0.0, trajectories)
    return _masked(result, columns.mask), estimators.returns(rho, trajectories, gamma=1.0)


def _refuse_not_finite(batch: Batch, mask: NDArray[np.bool_]) -> None:
    """UserError for a trainable token for which a model gave a number that is not finite."""
    for name, column in batch.columns.items():
        maker = FIELDS[name].made_by
        if not (maker.is_model or maker is Maker.engine):
            continue
        read = mask & (batch.column("versions") >= 0) if maker is Maker.engine else mask
        if bad := int((~np.isfinite(column[read])).sum()):
            raise UserError(
                f"{name}: {bad} of {int(read.sum())} trainable tokens have a value by {maker.value} that is not "
                "finite; nothing can be computed from it, so look at that model's weights and at model.dtype"
            )


def _bypassed(batch: Batch, mask: NDArray[np.bool_]) -> Batch:
    if (batch.column("versions")[mask] < 0).any():
        raise ValueError("algo.correction.bypass: some trainable tokens lack an engine's log-prob")
    return batch.with_column("old_logprobs", batch.column("rollout_logprobs"))


def _masked(column: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The column as float64, 0 where the mask is False, whatever stood there."""
    return np.where(mask, column, 0.0).astype(np.float64)


def _mean(name: str, column: NDArray, mask: NDArray[np.bool_]) -> dict[str, float]:
    return {name: float(column[mask].mean(dtype=np.float64))} if mask.any() else {}
