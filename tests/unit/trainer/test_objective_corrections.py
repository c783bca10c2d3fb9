"""Corrections in a micro-batch: which term of the loss they weigh, and what they leave out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlscale.config.schema.algo_config import (
    ClipLoss,
    GspoTokenLoss,
    KLConfig,
    KLEstimator,
    KLPlacement,
)
from rlscale.config.schema.correction_config import CorrectionConfig, WeightKind
from rlscale.trainer.objective import Objective
from rlscale.trainer.objective_metrics import finish
from tests.unit.trainer.prepared import algo, segment_sum_of


def three_tokens(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tokens of one segment; old - rollout = log 4, log 1 and, without an engine's log-prob, anything."""
    fields = {
        "loss_mask": torch.tensor([True, True, True]),
        "loss_weight": torch.full((3,), 0.5),
        "advantages": torch.tensor([1.0, -1.0, 1.0]),
        "old_logprobs": torch.tensor([-1.0, -1.0, -1.0]),
        "rollout_logprobs": torch.tensor([-1.0 - math.log(4.0), -1.0, 77.0]),
        "versions": torch.tensor([4, 4, -1]),
        "version": torch.tensor(4),
    }
    return fields | changes


WHOLE = segment_sum_of(np.zeros(3, np.int64))


@pytest.mark.parametrize("own_pass", [True, False])
def test_token_level_weights_multiply_the_policy_term_only(own_pass: bool) -> None:
    """tis: w = 4 is cut to 2; a token without an engine's log-prob has weight 1. KL and entropy are not weighted."""
    config = algo(
        ClipLoss(),
        kl=KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k2, coef=0.1),
        entropy_coef=0.01,
        correction=CorrectionConfig(weight=WeightKind.tis),
    )
    fields = three_tokens(ref_logprobs=torch.tensor([-2.0, -2.0, -2.0]))
    if not own_pass:
        del fields["old_logprobs"]
    lp = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    loss, metrics = Objective.of(config)(lp, torch.full((3,), 3.0), fields, WHOLE)
    policy = -2.0 * 1.0 + 1.0 - 1.0
    assert loss.item() == pytest.approx(0.5 * (policy + 3 * 0.1 * 0.5 - 3 * 0.01 * 3.0), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, lp)
    torch.testing.assert_close(gradient, 0.5 * (torch.tensor([-2.0, 1.0, -1.0]) + 0.1))
    done = finish(metrics.sums, metrics.maxima)
    assert done["correction_mean"] == pytest.approx(4 / 3)
    assert done["correction_outside"] == pytest.approx(1 / 3)


def test_icepop_gives_no_weight_to_a_token_past_its_bounds() -> None:
    config = algo(ClipLoss(), correction=CorrectionConfig(weight=WeightKind.icepop, upper=3.0))
    loss, _ = Objective.of(config)(torch.full((3,), -1.0), None, three_tokens(), WHOLE)
    assert loss.item() == pytest.approx(0.5 * (0.0 + 1.0 - 1.0), abs=1e-7)


def test_centering_is_a_term_of_the_loss_beside_the_weighted_policy() -> None:
    """The first token names two words, the second one, the third was not generated: A C is added, and is not weighted.

    Of the first p = (.5, .3), q = (.6, .2), so that C = .1 log .5 - .1 log .3 without bounds; tis cuts p / q = 1.5 of
    the second word to 1.2, which takes m from .3 to .24, and alpha stays 1.
    """
    words = torch.tensor([[7, 3], [5, -1], [1, 2]])
    sampler = torch.tensor([[0.6, 0.2], [0.5, 0.0], [0.5, 0.5]]).log()
    fields = three_tokens(sampler_words=words, sampler_logprobs=sampler)
    lp = torch.full((3,), -1.0)
    for weight, first in ((WeightKind.none, 0.1 * math.log(5 / 3)), (WeightKind.tis, -0.06 * math.log(0.3))):
        upper = None if weight is WeightKind.none else 1.2
        corrected = CorrectionConfig(weight=weight, upper=upper, score_centering=2)
        without, _ = Objective.of(algo(ClipLoss(), correction=replace(corrected, score_centering=None)))(
            lp, None, fields, WHOLE
        )
        policy = torch.tensor([[0.5, 0.3], [0.5, 0.0], [0.5, 0.5]]).log().requires_grad_()
        loss, metrics = Objective.of(algo(ClipLoss(), correction=corrected))(lp, None, fields, WHOLE, policy)
        second = 0.0  # p is q there
        assert (loss - without).item() == pytest.approx(0.5 * (1.0 * first - 1.0 * second), rel=1e-5)
        done = finish(metrics.sums, metrics.maxima)
        assert done["centering_gap"] == pytest.approx(0.1 / 3, rel=1e-5)
        assert done["centering_tail"] == pytest.approx((0.2 + 0.5) / 3, rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, policy)
        assert (gradient[1, 1], *gradient[2]) == (0, 0, 0)


def test_the_weights_of_a_whole_step_come_with_the_batch() -> None:
    config = algo(ClipLoss(), correction=CorrectionConfig(weight=WeightKind.tis, normalise=True))
    fields = three_tokens(correction=torch.tensor([0.5, 2.0, 1.0]))
    loss, metrics = Objective.of(config)(torch.full((3,), -1.0), None, fields, WHOLE)
    assert loss.item() == pytest.approx(0.5 * (-0.5 + 2.0 - 1.0))
    assert "correction_mean" not in metrics.sums


def test_off_policy_segments_lose_the_tokens_that_would_be_pushed_down() -> None:
    """The mean of rollout - lp over the two generated tokens is 0.5; one of them has a negative advantage."""
    fields = three_tokens(rollout_logprobs=torch.tensor([-1.0, -1.0, 77.0]))
    lp = torch.tensor([-1.0, -2.0, -1.0])
    for delta, masked in ((0.4, True), (0.6, False)):
        config = algo(ClipLoss(), correction=CorrectionConfig(opsm_delta=delta))
        loss, metrics = Objective.of(config)(lp, None, fields, WHOLE)
        ratio = max(math.exp(-1.0), 0.8)
        assert loss.item() == pytest.approx(0.5 * (-1.0 + (0.0 if masked else ratio) - 1.0), rel=1e-6)
        assert finish(metrics.sums, metrics.maxima)["opsm_masked"] == pytest.approx(1 / 3 if masked else 0.0)


def test_under_bypass_the_mismatch_is_that_of_the_current_logprobs() -> None:
    config = algo(ClipLoss(), correction=CorrectionConfig(bypass=True))
    fields = three_tokens(versions=torch.tensor([4, 4, 4]), rollout_logprobs=torch.tensor([-1.5, -1.0, -1.0]))
    fields["old_logprobs"] = fields["rollout_logprobs"]
    loss, metrics = Objective.of(config)(torch.full((3,), -1.0), None, fields, WHOLE)
    done = finish(metrics.sums, metrics.maxima)
    assert done["logprob_diff_max"] == pytest.approx(0.5)
    assert done["mismatch_chi2"] == pytest.approx((math.exp(1.0) - 1.0) / 3, rel=1e-6)
    assert done["ratio_max"] == pytest.approx(math.exp(0.5))
    assert loss.item() == pytest.approx(0.5 * (-1.2 + 1.0 - 1.0))
    assert Objective.of(config).mismatch_drifts
    assert not Objective.of(algo(ClipLoss())).mismatch_drifts


@pytest.mark.parametrize("correction", [CorrectionConfig(weight=WeightKind.mis), CorrectionConfig(opsm_delta=0.1)])
def test_the_names_of_metrics_do_not_depend_on_the_tokens(correction: CorrectionConfig) -> None:
    objective = Objective.of(algo(GspoTokenLoss(), correction=replace(correction, level=None)))
    fields = three_tokens(correction=torch.ones(3))
    nothing = {name: value[:0] if value.ndim else value for name, value in fields.items()}
    lp = torch.full((3,), -1.0)
    _, some = objective(lp, lp, fields, WHOLE)
    _, none = objective(lp[:0], lp[:0], nothing, segment_sum_of(np.zeros(0, np.int64)))
    assert list(some.sums) == list(none.sums)
    assert list(some.maxima) == list(none.maxima)
