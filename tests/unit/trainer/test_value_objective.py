from __future__ import annotations

import math

import pytest
import torch

from rlscale.config.schema.critic_config import CriticConfig
from rlscale.trainer.objective_metrics import finish
from rlscale.trainer.value_objective import ValueObjective


def test_the_critics_loss_by_hand() -> None:
    """Values 1.5 and 0.1 of old values 1 and 0, targets 3 and 1: the first moved past its bound of 0.2."""
    fields = {
        "loss_mask": torch.tensor([True, False, True]),
        "values": torch.tensor([1.0, math.nan, 0.0]),
        "returns": torch.tensor([3.0, math.nan, 1.0]),
        "value_weight": torch.tensor([0.5, math.inf, 0.5]),
    }
    values = torch.tensor([1.5, math.nan, 0.1], requires_grad=True)
    loss, metrics = ValueObjective(CriticConfig())(values, fields)
    errors = [max((1.5 - 3) ** 2, (1.2 - 3) ** 2) / 2, (0.1 - 1) ** 2 / 2]
    assert loss.item() == pytest.approx(sum(errors) / 2, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, values)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, 0.5 * (0.1 - 1)]))
    done = finish(metrics.sums, metrics.maxima)
    assert done["value_loss"] == pytest.approx(sum(errors) / 2, rel=1e-6)
    assert done["value_clip_fraction"] == 0.5
    assert done["value_error"] == pytest.approx((1.5 + 0.9) / 2, rel=1e-6)
    assert done["tokens"] == 2.0


def test_without_a_clip_the_loss_is_the_squared_error() -> None:
    fields = {"loss_mask": torch.tensor([True]), "values": torch.tensor([1.0]), "returns": torch.tensor([3.0])}
    loss, _ = ValueObjective(CriticConfig(clip=None))(torch.tensor([2.5]), fields | {"value_weight": torch.ones(1)})
    assert loss.item() == 0.125


def test_no_token_gives_no_loss_and_the_same_metrics() -> None:
    fields = {name: torch.zeros(0) for name in ("loss_mask", "values", "returns", "value_weight")}
    values = torch.zeros(0, dtype=torch.bfloat16, requires_grad=True)
    loss, metrics = ValueObjective(CriticConfig())(values, fields)
    loss.backward()
    assert loss.item() == 0.0
    assert list(metrics.sums) == ["tokens", "value_loss", "value_clip_fraction", "value_error"]
