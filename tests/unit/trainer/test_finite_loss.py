"""Numbers that are not finite: nothing is trained on them, whatever a loss makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlscale.config.schema.algo_config import KLConfig, KLEstimator, KLPlacement
from rlscale.config.schema.critic_config import CriticConfig
from rlscale.trainer.finite_loss import with_gradient_of_its_kind
from rlscale.trainer.objective import Objective
from rlscale.trainer.value_objective import ValueObjective
from tests.unit.trainer.test_objective import LOSSES, algo

KL = KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k3, coef=0.1)


def gradient(objective: Callable[..., tuple[Tensor, object]], outputs: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    """(loss, gradient to the model's outputs)."""
    outputs = outputs.clone().requires_grad_()
    loss, _ = objective(outputs, *rest)
    loss.backward()
    assert outputs.grad is not None
    return loss.detach(), outputs.grad


def tokens(count: int) -> dict[str, Tensor]:
    names = ("old_logprobs", "ref_logprobs", "rollout_logprobs")
    fields = {name: torch.full((count,), -1.0) for name in names}
    fields |= {"loss_mask": torch.ones(count, dtype=torch.bool), "loss_weight": torch.full((count,), 0.5)}
    return fields | {"advantages": torch.ones(count), "versions": torch.zeros(count), "version": torch.tensor(0)}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("column", ["old_logprobs", "ref_logprobs", "advantages", "loss_weight"])
@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "sft"])
def test_one_number_that_is_not_finite_leaves_no_gradient_to_step_along(loss: str, column: str, bad: float) -> None:
    """Infinite log-probs are differences past the bound of an exponent: finite, counted, and trained on."""
    config = algo(LOSSES[loss], kl=KL)
    for count in (1, 3):
        fields = tokens(count)
        fields[column][0] = bad
        value, found = gradient(Objective.of(config), torch.full((count,), -0.9), None, fields, lambda x: x)
        assert math.isfinite(value) == bool(found.isfinite().all())
        if math.isnan(bad) or column in ("advantages", "loss_weight"):
            assert found.isnan().all()


def test_masked_tokens_get_no_gradient_from_a_loss_that_is_not_finite() -> None:
    fields = tokens(3)
    fields["loss_mask"][1] = False
    fields["old_logprobs"][0] = math.nan
    _, found = gradient(Objective.of(algo(LOSSES["clip"])), torch.full((3,), -0.9), None, fields, lambda x: x)
    assert found.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("column", ["returns", "value_weight"])
def test_a_critic_does_not_learn_from_a_number_that_is_not_finite(column: str) -> None:
    """An old value that is none only loses its clip; `prepare` refuses it."""
    fields = {name: torch.ones(2) for name in ("loss_mask", "values", "returns", "value_weight")}
    fields[column][0] = math.nan
    _, found = gradient(ValueObjective(CriticConfig()), torch.full((2,), 0.9), fields)
    assert found.isnan().all()


@pytest.mark.parametrize("count", [0, 1, 50])
def test_a_finite_loss_and_its_gradient_keep_their_bits(count: int) -> None:
    draw = torch.Generator().manual_seed(count)
    outputs, weight = torch.randn(count, generator=draw), torch.randn(count, generator=draw)

    def plain(x: Tensor) -> tuple[Tensor, None]:
        return (weight * x.exp()).sum(), None

    def guarded(x: Tensor) -> tuple[Tensor, None]:
        return with_gradient_of_its_kind(plain(x)[0], x), None

    for one, other in zip(gradient(plain, outputs), gradient(guarded, outputs), strict=True):
        assert torch.equal(one, other)
