"""Metrics of the policy's objective, by numbers in which no two tokens and no two directions are alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from rlscale.trainer.objective import Objective
from rlscale.trainer.objective_metrics import finish, mismatch_of
from tests.shipped import shipped


def metrics_of(logprobs: list[float], fields: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """What a step of GRPO reports that has this one micro-batch."""
    _, metrics = Objective.of(shipped("grpo"))(torch.tensor(logprobs), None, fields, lambda x: x)
    return finish(metrics.sums, metrics.maxima)


def test_metrics_of_a_policy_loss_by_hand() -> None:
    """lp - old is 0.5, 0.4 (both past the upper bound of 1.2), -0.6 with A < 0 (past the lower one of 0.8) and 0.1."""
    fields = {
        "loss_mask": torch.tensor([True, True, False, True, True]),
        "loss_weight": torch.full((5,), 0.25),
        "advantages": torch.tensor([1.0, 2.0, 9.0, -1.0, 1.0]),
        "old_logprobs": torch.tensor([-1.0, -1.0, 50.0, -2.0, -1.5]),
    }
    done = metrics_of([-0.5, -0.6, -50.0, -2.6, -1.4], fields)
    ratios = [1.648721, 1.491825, 0.548812, 1.105171]  # exp of the four differences
    assert done["ppo_kl"] == pytest.approx(-(0.5 + 0.4 - 0.6 + 0.1) / 4, rel=1e-6)
    assert done["ppo_kl_k3"] == pytest.approx((0.148721 + 0.091825 + 0.148812 + 0.005171) / 4, rel=1e-5)
    assert done["ratio_mean"] == pytest.approx(sum(ratios) / 4, rel=1e-6)
    assert done["ratio_max"] == pytest.approx(1.648721, rel=1e-6)
    assert done["clip_fraction_high"] == 0.5
    assert done["clip_fraction_low"] == 0.25
    assert (done["tokens"], done["clamped_tokens"]) == (4.0, 0.0)


def compared(
    rollout: list[float],
    versions: list[int],
    mask: list[bool] | None = None,
    approximate: list[bool] | None = None,
) -> dict[str, float]:
    """Metrics of tokens with old = lp = -1, by a trainer of version 4."""
    count = len(rollout)
    fields = {
        "loss_mask": torch.tensor(mask or [True] * count),
        "loss_weight": torch.zeros(count),
        "advantages": torch.zeros(count),
        "old_logprobs": torch.full((count,), -1.0),
        "rollout_logprobs": torch.tensor(rollout),
        "versions": torch.tensor(versions),
        "version": torch.tensor(4),
        **({} if approximate is None else {"approximate": torch.tensor(approximate)}),
    }
    return metrics_of([-1.0] * count, fields)


def test_the_drift_metric_sees_only_tokens_of_the_trainers_own_version() -> None:
    """Differences of 0.25 and 0.5; one of 2 of an older version, one of 4 of a newer one; one that is masked."""
    done = compared([-1.25, -3.0, -1.5, -5.0, 9.0], [4, 3, 4, 5, -1], [True, True, True, True, False])
    assert done["logprob_diff_tokens"] == 2
    assert done["logprob_diff_mean"] == pytest.approx(0.375)
    assert done["logprob_diff_max"] == pytest.approx(0.5)
    assert done["mismatch_abs_mean"] == pytest.approx(6.75 / 4)
    assert done["mismatch_abs_max"] == pytest.approx(4.0)
    assert done["staleness_mean"] == pytest.approx((0 + 1 + 0 - 1) / 4)
    assert done["staleness_max"] == 1.0


def test_the_drift_metric_leaves_out_what_an_engine_generated_approximately() -> None:
    done = compared([-1.25, -3.0, -1.5], [4, 4, 4], approximate=[False, True, False])
    assert done["logprob_diff_tokens"] == 2
    assert done["logprob_diff_max"] == pytest.approx(0.5)
    assert done["mismatch_abs_max"] == pytest.approx(2.0), "which is no error, and still a mismatch"


def test_the_share_outside_the_bounds_is_reported_though_nothing_is_corrected() -> None:
    """w = exp(old - rollout) = 1.9, 2.1, 0.53, 0.49 and 0.1: three of five are not within 0.5 and 2."""
    done = compared([-1.0 - math.log(w) for w in (1.9, 2.1, 0.53, 0.49, 0.1)] + [7.0], [4, 3, 4, 4, 4, -1])
    assert done["mismatch_outside"] == pytest.approx(3 / 5)


@pytest.mark.parametrize("difference", [25.0, -25.0])
def test_a_token_that_was_clamped_for_the_mismatch_alone_is_counted(difference: float) -> None:
    done = compared([-1.0 - difference, -1.5, -1.0], [4, 4, 3])
    assert done["clamped_tokens"] == 1.0
    assert done["ratio_max"] == 1.0
    assert math.isfinite(done["mismatch_k3"])


def test_a_drifting_mismatch_is_reported_from_the_first_step() -> None:
    everything = {"loss": 1.0, "mismatch_k3": 5.0, "logprob_diff_max": 6.0, "staleness_mean": 0.5}
    first = {"loss": 9.0, "mismatch_k3": 0.1, "logprob_diff_max": 0.2, "staleness_mean": 9.0}
    assert mismatch_of(first, everything) == {
        "loss": 1.0,
        "mismatch_k3": 0.1,
        "logprob_diff_max": 0.2,
        "staleness_mean": 0.5,
    }
