"""Corrections of whole segments and steps: what they weigh, what they reject, and what that leaves as it is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.schema.algo_config import (
    KLConfig,
    KLPlacement,
)
from rlscale.config.schema.correction_config import Level, MisAction, RejectionConfig, WeightKind
from rlscale.data.batches.batch import Batch
from rlscale.trainer.objective import Objective
from rlscale.trainer.preparation import prepare
from tests.shipped import SHIPPED, shipped
from tests.unit.algo.ragged import Ragged, ragged
from tests.unit.trainer.prepared import (
    MAX_RESPONSE_TOKENS,
    collected,
    corrected,
    run,
    segment_sum_of,
    token_fields,
)

TIS, ICEPOP, MIS = WeightKind.tis, WeightKind.icepop, WeightKind.mis


def log_ratios(batch: Batch) -> list[list[float]]:
    """old - rollout of the trainable tokens of each segment (float32 columns, float64 arithmetic)."""
    difference = batch.column("old_logprobs").astype(float) - batch.column("rollout_logprobs").astype(float)
    spans = zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    return [[float(difference[t]) for t in range(a, b) if batch.column("loss_mask")[t]] for a, b in spans]


def far(seed: int = 3, steps: int = 1) -> Ragged:
    """An engine that is some way off."""
    data = ragged(seed, groups=6, steps=steps)
    return replace(data, rollout=data.old + 0.4 * np.random.default_rng(5).normal(size=len(data.old)))


@pytest.mark.parametrize("level", [Level.sequence, Level.geometric])
@pytest.mark.parametrize("action", list(MisAction))
def test_weights_of_segments_agree_with_loops(level: Level, action: MisAction) -> None:
    batch, metrics = run(corrected(weight=MIS, level=level, action=action, upper=1.5), far())
    seen, outside = [], []
    for row, ratios in enumerate(log_ratios(batch)):
        if not ratios:
            continue
        w = math.exp(sum(ratios) if level is Level.sequence else sum(ratios) / len(ratios))
        low = 0.0 if action is MisAction.truncate else 1 / 1.5
        expected = 0.0 if action is MisAction.mask and not low <= w <= 1.5 else min(max(w, low), 1.5)
        weights = batch.row("correction", row)[batch.row("loss_mask", row)]
        np.testing.assert_allclose(weights, expected, rtol=1e-5)
        seen += [expected] * len(ratios)
        outside += [not low <= w <= 1.5] * len(ratios)
    assert metrics["correction_mean"] == pytest.approx(np.mean(seen), rel=1e-6)
    assert metrics["correction_outside"] == pytest.approx(np.mean(outside))
    assert any(outside)


def test_gspo_weighs_by_the_geometric_mean_unless_told_otherwise() -> None:
    for name in SHIPPED:
        expected = Level.geometric if name in ("gspo", "gspo_token") else Level.token
        assert AlgoNeeds.of_algo(shipped(name)).weight_level is expected
        assert AlgoNeeds.of_algo(corrected(name, level=Level.sequence)).weight_level is Level.sequence
    implied, _ = run(corrected("gspo", weight=MIS), far())
    explicit, _ = run(corrected("gspo", weight=MIS, level=Level.geometric), far())
    np.testing.assert_array_equal(implied.column("correction"), explicit.column("correction"))


def test_normalised_weights_have_a_mean_of_one_in_every_step() -> None:
    data = far(seed=4, steps=2)
    plain, before = run(corrected(weight=MIS, level=Level.sequence), data)
    batch, metrics = run(corrected(weight=MIS, level=Level.sequence, normalise=True), data)
    step = np.repeat(batch.column("step"), batch.lengths)
    for number in (0, 1):
        tokens = (step == number) & batch.column("loss_mask")
        weights = plain.column("correction")[tokens].astype(float)
        assert abs(weights.mean() - 1) > 1e-3
        np.testing.assert_allclose(batch.column("correction")[tokens], weights / weights.mean(), rtol=1e-5)
    assert metrics == before  # those of the weights as they were


def test_token_weights_are_computed_ahead_only_to_be_normalised() -> None:
    assert not AlgoNeeds.of_algo(corrected(weight=TIS)).weighs_ahead
    assert "correction" not in run(corrected(weight=TIS), far())[0]
    batch, _ = run(corrected(weight=TIS, normalise=True), far())
    flat = [ratio for ratios in log_ratios(batch) for ratio in ratios]
    expected = np.minimum(np.exp(flat), 2.0)
    weights = batch.column("correction")[batch.column("loss_mask")]
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-5)


def test_weights_that_are_all_zero_are_not_divided() -> None:
    data = far()
    data = replace(data, rollout=data.old + 50.0)
    batch, metrics = run(corrected(weight=ICEPOP, normalise=True), data)
    assert not batch.column("correction")[batch.column("loss_mask")].any()
    assert metrics["correction_outside"] == 1.0


@pytest.mark.parametrize(
    "bounds",
    [
        RejectionConfig(level=Level.geometric, lower=0.9, upper=1.2),
        RejectionConfig(level=Level.sequence, lower=0.5, upper=2.0),
        RejectionConfig(level=Level.token, lower=0.5, upper=2.0),
        RejectionConfig(veto=0.6),
    ],
)
def test_rejected_segments_weigh_nothing_and_the_denominators_stay(bounds: RejectionConfig) -> None:
    plain, _ = run(shipped("ppo"), far())
    batch, metrics = run(corrected("ppo", rejection=bounds), far())
    rejected = []
    for row, ratios in enumerate(log_ratios(batch)):
        levels = {Level.sequence: [sum(ratios)], Level.token: ratios, None: []}
        levels[Level.geometric] = [sum(ratios) / max(len(ratios), 1)]
        reject = any(
            not math.log(bounds.lower or 1e-300) <= value <= math.log(bounds.upper or 1e300)
            for value in levels[bounds.level]
        )
        reject |= bounds.veto is not None and any(value < math.log(bounds.veto) for value in ratios)
        weights = batch.row("loss_weight", row)
        np.testing.assert_array_equal(weights, 0.0 if reject else plain.row("loss_weight", row))
        if ratios:
            rejected.append(reject)
    assert metrics["rejected_segments"] == pytest.approx(np.mean(rejected))
    assert 0 < np.mean(rejected) < 1
    for name in ("advantages", "returns", "value_weight"):
        np.testing.assert_array_equal(batch.column(name), plain.column(name))


def test_a_rejected_segment_loses_its_kl_and_entropy_too() -> None:
    """Its mask counts as 0 in every term, while the others keep their denominators: unlike with a weight of 0."""
    pieces = {"kl": KLConfig(placement=KLPlacement.loss, coef=0.3), "entropy_coef": 0.2}
    bounds = RejectionConfig(level=Level.geometric, lower=0.9, upper=1.2)
    plain = replace(shipped("grpo"), **pieces)
    data = far()
    gradients = {}
    for name, config in {"plain": plain, "rejecting": replace(corrected(rejection=bounds), **pieces)}.items():
        batch, metrics = run(config, data)
        lp = torch.from_numpy(data.logprobs).requires_grad_()
        entropy = torch.full_like(lp, 2.0, requires_grad=True)
        loss, _ = Objective.of(config)(lp, entropy, token_fields(batch), segment_sum_of(data.row_of_token))
        gradients[name] = [g.numpy() for g in torch.autograd.grad(loss, (lp, entropy))]
    assert 0 < metrics["rejected_segments"] < 1
    mask, weight = batch.column("loss_mask"), batch.column("loss_weight")
    assert (weight[mask] == 0).any()
    for rejecting, everything in zip(gradients["rejecting"], gradients["plain"], strict=True):
        assert (everything[mask] != 0).all()
        np.testing.assert_array_equal(rejecting, np.where(weight > 0, everything, 0.0))
    np.testing.assert_allclose(gradients["rejecting"][1], -0.2 * weight, rtol=1e-6)


def test_bypass_takes_the_engines_logprobs_for_the_old_ones() -> None:
    config = corrected("reinforce_pp", bypass=True)
    batch = collected(ragged(3))
    without = Batch(batch.offsets, {name: c for name, c in batch.columns.items() if name != "old_logprobs"})
    made, _ = prepare(without, config, max_response_tokens=MAX_RESPONSE_TOKENS)
    np.testing.assert_array_equal(made.column("old_logprobs"), batch.column("rollout_logprobs"))
    as_old = batch.with_column("old_logprobs", batch.column("rollout_logprobs"))
    wanted, _ = prepare(as_old, shipped("reinforce_pp"), max_response_tokens=MAX_RESPONSE_TOKENS)
    np.testing.assert_array_equal(made.column("advantages"), wanted.column("advantages"))
    assert not Objective.of(replace(config, steps_per_iteration=3)).needs_old
    unknown = batch.with_column("versions", np.full(batch.tokens_total, -1))
    with pytest.raises(ValueError, match="lack an engine's log-prob"):
        prepare(unknown, config, max_response_tokens=MAX_RESPONSE_TOKENS)


def test_tokens_without_an_engines_logprob_neither_reject_nor_weigh() -> None:
    data = far()
    data = replace(data, versions=np.full_like(data.versions, -1), rollout=np.full_like(data.rollout, 1e6))
    batch, metrics = run(corrected(weight=MIS, normalise=True, rejection=RejectionConfig(veto=0.5)), data)
    assert metrics["rejected_segments"] == 0.0
    assert metrics["correction_mean"] == 1.0
    assert (batch.column("correction") == 1.0).all()
