from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlscale.config.errors import UserError
from rlscale.config.schema.algo import (
    AdvantageKind,
    AlgoConfig,
    ClipLoss,
    GspoLoss,
    KLConfig,
    KLEstimator,
    KLPlacement,
    LossConfig,
    OldLogprobs,
    Reduction,
    ScoreKind,
    SftLoss,
)
from rlscale.trainer.objective import Objective, finish, token_columns
from tests.unit.algo.ragged import Ragged, ragged

LOSSES: dict[str, LossConfig] = {"clip": ClipLoss(), "gspo": GspoLoss(eps_low=0.05, eps_high=0.05), "sft": SftLoss()}


def algo(loss: LossConfig, **changes) -> AlgoConfig:
    return AlgoConfig(**{"name": "test", "kl": KLConfig(), "loss": loss, **changes})


def everything_on(loss: LossConfig, reduction: Reduction) -> AlgoConfig:
    kl = KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k3, coef=0.1, unbiased=True)
    return algo(loss, kl=kl, entropy_coef=0.02, reduction=reduction)


def columns(config: AlgoConfig, data: Ragged) -> dict[str, torch.Tensor]:
    """All fields of the whole step, in float64."""
    made = token_columns(
        config,
        rewards=data.rewards,
        groups=data.groups,
        sample=data.sample,
        lengths=data.lengths,
        step=data.step,
        mask=data.mask,
        max_response_tokens=30,
    )
    made.update(loss_mask=data.mask, old_logprobs=data.old, ref_logprobs=data.ref)
    made.update(rollout_logprobs=data.rollout, versions=data.versions)
    return {name: torch.from_numpy(value) for name, value in made.items()}


def evaluate(config: AlgoConfig, data: Ragged, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, dict, dict]:
    """Loss, gradient to all log-probs, sums and maxima of one micro-batch of rows."""
    objective = Objective.of(config)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    entropy = lp.square() * 0.5
    tokens = torch.from_numpy(
        np.concatenate([np.arange(data.offsets[r], data.offsets[r + 1]) for r in rows] or [np.zeros(0, dtype=np.int64)])
    )
    segment = torch.from_numpy(np.repeat(np.arange(len(rows)), data.lengths[rows]))

    def segment_sum(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(rows)).index_add(0, segment, x)[segment]

    fields = {name: value[tokens] for name, value in columns(config, data).items()} | {"version": torch.tensor(5)}
    loss, metrics = objective(lp[tokens], entropy[tokens], fields, segment_sum)
    (gradient,) = torch.autograd.grad(loss, lp)
    return loss.detach(), gradient, metrics.sums, metrics.maxima


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parts", [2, 5])
def test_loss_gradient_and_metrics_do_not_depend_on_how_a_step_is_cut(
    loss: str, reduction: Reduction, parts: int
) -> None:
    config, data = everything_on(LOSSES[loss], reduction), ragged(7, noise=0.6)
    rows = np.arange(len(data.lengths))
    whole_loss, whole_gradient, whole_sums, whole_maxima = evaluate(config, data, rows)
    order = np.random.default_rng(0).permutation(rows)
    pieces = [evaluate(config, data, part) for part in [*np.array_split(order, parts), rows[:0]]]
    assert whole_gradient.abs().max() > 1e-4
    torch.testing.assert_close(sum(p[0] for p in pieces), whole_loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(sum(p[1] for p in pieces), whole_gradient, rtol=1e-12, atol=1e-14)
    sums = {name: sum(float(p[2][name]) for p in pieces) for name in whole_sums}
    maxima = {name: max(float(p[3][name]) for p in pieces) for name in whole_maxima}
    assert finish(sums, maxima) == pytest.approx(finish(whole_sums, whole_maxima), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_agrees_with_finite_differences(loss: str) -> None:
    config, data = everything_on(LOSSES[loss], Reduction.sample_mean), ragged(3, groups=2, noise=0.5)
    rows = np.arange(len(data.lengths))
    _, gradient, _, _ = evaluate(config, data, rows)
    for token in np.flatnonzero(data.mask)[:12]:
        moved = []
        for sign in (1, -1):
            logprobs = data.logprobs.copy()
            logprobs[token] += sign * 1e-6
            moved.append(float(evaluate(config, replace(data, logprobs=logprobs), rows)[0]))
        assert (moved[0] - moved[1]) / 2e-6 == pytest.approx(float(gradient[token]), rel=1e-5, abs=1e-9)


def test_grpo_with_its_kl_by_hand() -> None:
    """Two samples of one group, one and two trainable tokens; reward 1 and 0."""
    config = algo(ClipLoss(), kl=KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k3, coef=0.5))
    made = token_columns(
        config,
        rewards=np.array([1.0, 0.0]),
        groups=np.array([0, 0]),
        sample=np.array([0, 1]),
        lengths=np.array([2, 3]),
        step=np.array([0, 0]),
        mask=np.array([False, True, False, True, True]),
        max_response_tokens=8,
    )
    a = 0.5 / (math.sqrt(0.5) + 1e-6)
    np.testing.assert_allclose(made["advantages"], [0, a, 0, -a, -a], rtol=1e-14)
    np.testing.assert_allclose(made["loss_weight"], [0, 1 / 2, 0, 1 / 4, 1 / 4], rtol=1e-14)
    fields = {name: torch.from_numpy(value) for name, value in made.items()}
    fields["loss_mask"] = torch.tensor([False, True, False, True, True])
    fields["old_logprobs"] = torch.tensor([0.0, -1.0, 0.0, -1.0, -1.0], dtype=torch.float64)
    fields["ref_logprobs"] = torch.tensor([0.0, -1.5, 0.0, -1.0, -2.0], dtype=torch.float64)
    lp = torch.tensor([0.0, -0.5, 0.0, -1.5, -1.0], dtype=torch.float64)
    loss, metrics = Objective.of(config)(lp, None, fields, lambda x: x)
    kl = [math.exp(-1.0) - 1 + 1.0, math.exp(0.5) - 1 - 0.5, math.exp(-1.0) - 1 + 1.0]
    policy = [-1.2 * a, 0.8 * a, a]
    expected = sum(w * (p + 0.5 * k) for w, p, k in zip([1 / 2, 1 / 4, 1 / 4], policy, kl, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    done = finish({k: float(v) for k, v in metrics.sums.items()}, {k: float(v) for k, v in metrics.maxima.items()})
    assert done["kl"] == pytest.approx(sum(kl) / 3)
    assert done["ppo_kl"] == pytest.approx((-0.5 + 0.5 + 0.0) / 3)
    assert done["clip_fraction_high"] == pytest.approx(1 / 3)
    assert done["clip_fraction_low"] == pytest.approx(1 / 3)
    assert done["ratio_max"] == pytest.approx(math.exp(0.5))


@pytest.mark.parametrize("forced", [True, False])
def test_on_policy_the_ratio_is_one_and_the_ppo_kl_zero(forced: bool) -> None:
    data = ragged(4)
    data = replace(data, old=data.logprobs)
    fields = columns(algo(ClipLoss()), data) | {"version": torch.tensor(5)}
    if not forced:
        del fields["old_logprobs"]
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    loss, metrics = Objective.of(algo(ClipLoss()))(lp, None, fields, lambda x: x)
    done = finish(metrics.sums, metrics.maxima)
    assert done["ratio_mean"] == pytest.approx(1.0, abs=1e-15)
    assert done["ratio_max"] == 1.0
    assert done["ppo_kl"] == 0.0
    (gradient,) = torch.autograd.grad(loss, lp)
    torch.testing.assert_close(gradient, -fields["advantages"] * fields["loss_weight"])


def test_the_drift_metric_sees_only_tokens_of_the_trainers_own_version() -> None:
    fields = {
        "loss_mask": torch.tensor([True, True, True, False]),
        "loss_weight": torch.zeros(4),
        "advantages": torch.zeros(4),
        "old_logprobs": torch.tensor([-1.0, -1.0, -1.0, -1.0]),
        "rollout_logprobs": torch.tensor([-1.25, -3.0, -1.5, 9.0]),
        "versions": torch.tensor([4, 3, 4, -1]),
        "version": torch.tensor(4),
    }
    _, metrics = Objective.of(algo(ClipLoss()))(torch.full((4,), -1.0), None, fields, lambda x: x)
    done = finish(metrics.sums, metrics.maxima)
    assert done["logprob_diff_tokens"] == 2
    assert done["logprob_diff_mean"] == pytest.approx(0.375)
    assert done["logprob_diff_max"] == pytest.approx(0.5)
    assert done["mismatch_abs_mean"] == pytest.approx(2.75 / 3)
    assert done["mismatch_abs_max"] == pytest.approx(2.0)
    assert done["staleness_mean"] == pytest.approx(1 / 3)
    assert done["staleness_max"] == 1.0


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_with_nothing_trainable_is_finite_whatever_its_masked_values(loss: str) -> None:
    config = everything_on(LOSSES[loss], Reduction.token_mean)
    bad = torch.tensor([float("nan"), float("inf"), -float("inf")])
    names = ("loss_weight", "advantages", "old_logprobs", "ref_logprobs", "rollout_logprobs")
    fields = dict.fromkeys(names, bad) | {"loss_mask": torch.zeros(3, dtype=torch.bool)}
    fields |= {"versions": torch.full((3,), -1), "version": torch.tensor(0)}
    lp = bad.clone().requires_grad_()
    loss_value, metrics = Objective.of(config)(lp, bad, fields, lambda x: x)
    loss_value.backward()
    assert loss_value.item() == 0.0
    assert lp.grad is not None
    assert (lp.grad == 0).all()
    assert finish(metrics.sums, metrics.maxima) == {
        "tokens": 0.0,
        "clamped_tokens": 0.0,
        **({} if loss == "sft" else {"logprob_diff_tokens": 0.0}),
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_logprobs_are_finite_and_counted(loss: str) -> None:
    config, data = everything_on(LOSSES[loss], Reduction.sample_mean), ragged(1)
    sign = np.where(np.arange(len(data.old)) % 2, 100.0, -100.0)
    data = replace(data, logprobs=data.old + sign, ref=data.old - sign)
    value, gradient, sums, maxima = evaluate(config, data, np.arange(len(data.lengths)))
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    done = finish(sums, maxima)
    assert done["clamped_tokens"] == data.mask.sum()
    assert all(math.isfinite(v) for v in done.values())


def test_half_precision_logprobs_are_computed_in_float32() -> None:
    fields = {"loss_mask": torch.tensor([True]), "loss_weight": torch.tensor([1.0])}
    loss, _ = Objective.of(algo(SftLoss()))(torch.tensor([-0.5], dtype=torch.bfloat16), None, fields, lambda x: x)
    assert loss.dtype == torch.float32


def test_supervised_learning_reads_neither_rewards_nor_an_engine() -> None:
    config = algo(SftLoss(), score=ScoreKind.none, advantage=AdvantageKind.none, reduction=Reduction.token_mean)
    data = ragged(0)
    fields = columns(config, data)
    assert "advantages" not in fields
    objective = Objective.of(config)
    assert objective.supervised
    assert not objective.needs_entropy
    loss, metrics = objective(torch.from_numpy(data.logprobs), None, fields, lambda x: x)
    assert loss.item() == pytest.approx(-data.logprobs[data.mask].mean(), rel=1e-12)
    assert set(finish(metrics.sums, metrics.maxima)) == {"tokens", "clamped_tokens"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"old_logprobs": OldLogprobs.always}, True),
        ({"steps_per_iteration": 2}, True),
        ({"epochs_per_iteration": 2}, True),
    ],
)
def test_the_old_pass_is_skipped_exactly_when_the_first_step_gives_the_same_numbers(changes, expected: bool) -> None:
    assert Objective.of(algo(ClipLoss(), **changes)).needs_old is expected
    assert Objective.of(algo(SftLoss(), **changes)).needs_old is False


def test_the_reference_is_needed_only_when_something_reads_it() -> None:
    assert not Objective.of(algo(ClipLoss())).needs_reference
    assert not Objective.of(algo(ClipLoss(), kl=KLConfig(placement=KLPlacement.loss, coef=0.0))).needs_reference
    assert Objective.of(algo(ClipLoss(), kl=KLConfig(placement=KLPlacement.loss, coef=0.1))).needs_reference


@pytest.mark.parametrize(
    ("kl", "key"),
    [
        (KLConfig(placement=KLPlacement.reward, coef=0.1), "algo.kl.placement"),
        (KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k1, coef=0.1), "algo.kl.estimator"),
    ],
)
def test_a_kl_term_that_cannot_act_is_refused(kl: KLConfig, key: str) -> None:
    with pytest.raises(UserError, match=key):
        Objective.of(algo(ClipLoss(), kl=kl))


def test_an_entropy_bonus_raises_the_entropy() -> None:
    config = algo(ClipLoss(), entropy_coef=0.1)
    fields = {"loss_mask": torch.tensor([True]), "loss_weight": torch.tensor([1.0]), "advantages": torch.zeros(1)}
    entropy = torch.tensor([2.0], requires_grad=True)
    loss, metrics = Objective.of(config)(torch.tensor([-1.0]), entropy, fields, lambda x: x)
    loss.backward()
    assert entropy.grad is not None
    assert entropy.grad.item() == pytest.approx(-0.1)
    assert metrics.sums["entropy"].item() == 2.0
