"""The objective of a step: it does not depend on how the step is cut, and reads only what its algorithm needs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    CispoLoss,
    ClipLoss,
    GspoLoss,
    GspoTokenLoss,
    KLConfig,
    KLEstimator,
    KLPlacement,
    LossConfig,
    OldLogprobs,
    ReductionConfig,
    ReductionKind,
    SapoLoss,
    SftLoss,
)
from rlscale.config.schema.correction_config import CorrectionConfig, WeightKind
from rlscale.data.batches.batch import Batch
from rlscale.trainer.objective import Objective
from rlscale.trainer.objective_metrics import finish
from rlscale.trainer.preparation import prepare
from tests.unit.algo.ragged import Ragged, ragged
from tests.unit.trainer.prepared import algo, prepared, segment_sum_of, token_fields

LOSSES: dict[str, LossConfig] = {
    "clip": ClipLoss(),
    "gspo": GspoLoss(eps_low=0.05, eps_high=0.05),
    "gspo_token": GspoTokenLoss(eps_low=0.05, eps_high=0.05),
    "cispo": CispoLoss(),
    "sapo": SapoLoss(),
    "sft": SftLoss(),
}
REDUCTIONS = [kind for kind in ReductionKind if kind is not ReductionKind.custom]


def everything_on(loss: LossConfig, reduction: ReductionKind) -> AlgoConfig:
    """KL and entropy in the loss; for policy losses also weights and masks against the mismatch."""
    kl = KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k3, coef=0.1, unbiased=True)
    changes = {"kl": kl, "entropy_coef": 0.02, "reduction": ReductionConfig(kind=reduction)}
    if isinstance(loss, SftLoss):
        return algo(loss, **changes)
    return algo(loss, **changes, correction=CorrectionConfig(weight=WeightKind.tis, opsm_delta=0.05))


def evaluate(config: AlgoConfig, data: Ragged, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, dict, dict]:
    """Loss, gradient to all log-probs, sums and maxima of one micro-batch of rows."""
    objective = Objective.of(config)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    entropy = lp.square() * 0.5
    tokens = torch.from_numpy(
        np.concatenate([np.arange(data.offsets[r], data.offsets[r + 1]) for r in rows] or [np.zeros(0, dtype=np.int64)])
    )
    segment = np.repeat(np.arange(len(rows)), data.lengths[rows])
    fields = token_fields(prepared(config, data), tokens.numpy())
    entropies = entropy[tokens]
    loss, metrics = objective(lp[tokens], entropies, fields, segment_sum_of(segment))
    (gradient,) = torch.autograd.grad(loss, lp)
    return loss.detach(), gradient, metrics.sums, metrics.maxima


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parts", [2, 5])
def test_loss_gradient_and_metrics_do_not_depend_on_how_a_step_is_cut(
    loss: str, reduction: ReductionKind, parts: int
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


@pytest.mark.parametrize("loss", ["clip", "gspo", "sapo", "sft"])
def test_the_gradient_agrees_with_finite_differences(loss: str) -> None:
    """Of losses without a stopped gradient."""
    config, data = everything_on(LOSSES[loss], ReductionKind.sample_mean), ragged(3, groups=2, noise=0.5)
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
    batch = Batch(np.array([0, 2, 5]))
    columns = {"loss_mask": [False, True, False, True, True], "reward": [1.0, 0.0], "group": [0, 0]}
    for name, values in {**columns, "sample": [0, 1], "step": [0, 0]}.items():
        batch = batch.with_column(name, values)
    made, _ = prepare(batch, config, max_response_tokens=8)
    a = 0.5 / (math.sqrt(0.5) + 1e-6)
    np.testing.assert_allclose(made.column("advantages"), [0, a, 0, -a, -a], rtol=1e-7)
    np.testing.assert_allclose(made.column("loss_weight"), [0, 1 / 2, 0, 1 / 4, 1 / 4], rtol=1e-7)
    fields = token_fields(made)
    fields["old_logprobs"] = torch.tensor([0.0, -1.0, 0.0, -1.0, -1.0], dtype=torch.float64)
    fields["ref_logprobs"] = torch.tensor([0.0, -1.5, 0.0, -1.0, -2.0], dtype=torch.float64)
    lp = torch.tensor([0.0, -0.5, 0.0, -1.5, -1.0], dtype=torch.float64)
    loss, metrics = Objective.of(config)(lp, None, fields, lambda x: x)
    kl = [math.exp(-1.0) - 1 + 1.0, math.exp(0.5) - 1 - 0.5, math.exp(-1.0) - 1 + 1.0]
    policy = [-1.2 * a, 0.8 * a, a]
    expected = sum(w * (p + 0.5 * k) for w, p, k in zip([1 / 2, 1 / 4, 1 / 4], policy, kl, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    done = finish({k: float(v) for k, v in metrics.sums.items()}, {k: float(v) for k, v in metrics.maxima.items()})
    assert done["kl"] == pytest.approx(sum(kl) / 3)


@pytest.mark.parametrize("forced", [True, False])
def test_on_policy_the_ratio_is_one_and_the_ppo_kl_zero(forced: bool) -> None:
    data = ragged(4)
    data = replace(data, old=data.logprobs)
    fields = token_fields(prepared(algo(ClipLoss()), data))
    fields["old_logprobs"] = torch.from_numpy(data.logprobs)
    if not forced:
        del fields["old_logprobs"]
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    loss, metrics = Objective.of(algo(ClipLoss()))(lp, None, fields, lambda x: x)
    done = finish(metrics.sums, metrics.maxima)
    assert done["ratio_mean"] == pytest.approx(1.0, abs=1e-15)
    assert done["ratio_max"] == 1.0
    assert done["ppo_kl"] == 0.0
    (gradient,) = torch.autograd.grad(loss, lp)
    torch.testing.assert_close(gradient, -fields["advantages"].double() * fields["loss_weight"].double())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_with_nothing_trainable_is_finite_whatever_its_masked_values(loss: str) -> None:
    config = everything_on(LOSSES[loss], ReductionKind.token_mean)
    bad = torch.tensor([float("nan"), float("inf"), -float("inf")])
    names = ("loss_weight", "advantages", "old_logprobs", "ref_logprobs", "rollout_logprobs", "correction")
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
    config, data = everything_on(LOSSES[loss], ReductionKind.sample_mean), ragged(1)
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
    config, data = algo(SftLoss(), reduction=ReductionConfig(kind=ReductionKind.token_mean)), ragged(0)
    fields = token_fields(prepared(config, data))
    assert "advantages" not in fields
    objective = Objective.of(config)
    assert objective.supervised
    assert not objective.needs_entropy
    loss, metrics = objective(torch.from_numpy(data.logprobs), None, fields, lambda x: x)
    assert loss.item() == pytest.approx(-data.logprobs[data.mask].mean(), rel=1e-6)
    assert set(finish(metrics.sums, metrics.maxima)) == {"tokens", "clamped_tokens"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"old_logprobs": OldLogprobs.always}, True),
        ({"old_logprobs": OldLogprobs.behaviour}, True),
        ({"steps_per_iteration": 2}, True),
        ({"epochs_per_iteration": 2}, True),
        ({"correction": CorrectionConfig(weight=WeightKind.tis)}, False),
        ({"correction": CorrectionConfig(opsm_delta=0.1)}, False),
        ({"correction": CorrectionConfig(bypass=True)}, False),
        ({"correction": CorrectionConfig(bypass=True), "steps_per_iteration": 2}, False),
        ({"correction": CorrectionConfig(bypass=True), "old_logprobs": OldLogprobs.always}, False),
    ],
)
def test_the_old_pass_is_skipped_exactly_when_the_first_step_gives_the_same_numbers(changes, expected: bool) -> None:
    assert Objective.of(algo(ClipLoss(), **changes)).needs_old is expected
    assert Objective.of(algo(SftLoss(), **changes)).needs_old is False


def test_the_reference_is_needed_only_when_the_loss_reads_it() -> None:
    def needed(**kl) -> bool:
        return Objective.of(algo(ClipLoss(), kl=KLConfig(**kl))).needs_reference

    assert not needed()
    assert not needed(placement=KLPlacement.loss, coef=0.0)
    assert not needed(placement=KLPlacement.reward, coef=0.1)
    assert needed(placement=KLPlacement.loss, coef=0.1)


def test_a_kl_loss_without_an_expected_gradient_is_refused() -> None:
    kl = KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k1, coef=0.1)
    with pytest.raises(UserError, match=r"algo\.kl\.estimator"):
        Objective.of(algo(ClipLoss(), kl=kl))
    Objective.of(algo(ClipLoss(), kl=replace(kl, unbiased=True)))


def test_an_entropy_bonus_raises_the_entropy() -> None:
    config = algo(ClipLoss(), entropy_coef=0.1)
    fields = {"loss_mask": torch.tensor([True]), "loss_weight": torch.tensor([1.0]), "advantages": torch.zeros(1)}
    entropy = torch.tensor([2.0], requires_grad=True)
    loss, metrics = Objective.of(config)(torch.tensor([-1.0]), entropy, fields, lambda x: x)
    loss.backward()
    assert entropy.grad is not None
    assert entropy.grad.item() == pytest.approx(-0.1)
    assert metrics.sums["entropy"].item() == 2.0
