from __future__ import annotations

import numpy as np
import pytest
import torch

from rlscale.config.errors import UserError
from rlscale.config.named_models import has_critic
from rlscale.config.schema.algo import AlgoConfig
from rlscale.trainer.hooks import build_hook
from rlscale.trainer.objective import Objective
from rlscale.trainer.preparation import columns_before, prepare
from tests.shipped import shipped
from tests.unit.algo.ragged import ragged
from tests.unit.trainer.prepared import MAX_RESPONSE_TOKENS, collected, prepared, segment_sum_of, token_fields

HERE = "tests.unit.trainer.user_hooks"


def hooked(kind: str, function: str, *more: str) -> AlgoConfig:
    return shipped("grpo", f"algo/{kind}=custom", f"algo.{kind}.function._target_={HERE}.{function}", *more)


def test_a_score_of_the_users_own() -> None:
    batch = prepared(hooked("score", "half"), ragged(3))
    reward = np.repeat(batch.column("reward"), batch.lengths)
    np.testing.assert_allclose(batch.column("advantages"), np.where(batch.column("loss_mask"), reward * 0.5, 0.0))


@pytest.mark.parametrize(("function", "message"), [("too_short", "shape"), ("not_finite", "not finite")])
def test_a_score_that_cannot_be_used_is_named(function: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"algo\.score\.function returned.*{message}"):
        prepared(hooked("score", function), ragged(3))


def test_an_advantage_reads_the_columns_that_it_asks_for() -> None:
    config = hooked(
        "advantage", "own_logprob", "algo.advantage.reads=[ref_logprobs]", "+algo.advantage.function.scale=2"
    )
    assert columns_before(config) == ("ref_logprobs",)
    batch = prepared(config, ragged(3))
    expected = np.where(batch.column("loss_mask"), 2 * batch.column("ref_logprobs"), 0.0)
    np.testing.assert_allclose(batch.column("advantages"), expected)
    assert "returns" not in batch


def test_an_advantage_that_reads_values_has_a_critic_that_learns_what_follows() -> None:
    config = hooked("advantage", "score_minus_value", "algo.advantage.reads=[values]", "algo/score=raw")
    assert has_critic(config)
    assert columns_before(config) == ("values",)
    batch, metrics = prepare(collected(ragged(3)), config, max_response_tokens=MAX_RESPONSE_TOKENS)
    mask, reward = batch.column("loss_mask"), np.repeat(batch.column("reward"), batch.lengths)
    np.testing.assert_allclose(batch.column("returns"), np.where(mask, reward, 0.0), rtol=1e-6)
    np.testing.assert_allclose(
        batch.column("advantages"), np.where(mask, reward - batch.column("values"), 0.0), rtol=1e-5, atol=1e-7
    )
    assert "explained_variance" in metrics


def test_a_loss_of_the_users_own() -> None:
    config, data = hooked("loss", "Reinforce", "+algo.loss.function.scale=3.0"), ragged(3)
    batch = prepared(config, data)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    loss, metrics = Objective.of(config)(lp, None, token_fields(batch), segment_sum_of(data.row_of_token))
    (gradient,) = torch.autograd.grad(loss, lp)
    expected = -3.0 * batch.column("loss_weight").astype(float) * batch.column("advantages").astype(float)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-12)
    assert loss.item() == pytest.approx((expected * data.logprobs).sum(), rel=1e-12)
    assert "clip_fraction_low" in metrics.sums


@pytest.mark.parametrize("ahead", [False, True])
def test_a_correction_of_the_users_own(ahead: bool) -> None:
    config = hooked("correction", "mean_of_segment", *(["algo.correction.level=geometric"] if ahead else []))
    assert columns_before(config) == (("old_logprobs",) if ahead else ())
    data = ragged(3)
    batch = prepared(config, data)
    assert ("correction" in batch) is ahead
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    fields = token_fields(batch)
    segment_sum = segment_sum_of(data.row_of_token)
    loss, _ = Objective.of(config)(lp, None, fields, segment_sum)
    plain, _ = Objective.of(shipped("grpo"))(lp, None, fields, segment_sum)
    (weighted,), (unweighted,) = torch.autograd.grad(loss, lp), torch.autograd.grad(plain, lp)
    ratio = torch.where(fields["loss_mask"], fields["old_logprobs"] - fields["rollout_logprobs"], 0.0).double()
    tokens = segment_sum(fields["loss_mask"].double()).clamp(min=1.0)
    torch.testing.assert_close(weighted, unweighted * (segment_sum(ratio) / tokens).exp(), rtol=1e-5, atol=1e-12)


def test_a_reduction_of_the_users_own() -> None:
    config = hooked("reduction", "one_over_tokens", "+algo.reduction.function.scale=6.0")
    batch = prepared(config, ragged(3))
    expected = np.where(batch.column("loss_mask"), 6.0 / MAX_RESPONSE_TOKENS, 0.0)
    np.testing.assert_allclose(batch.column("loss_weight"), expected, rtol=1e-6)


def test_the_same_node_gives_the_same_object() -> None:
    node = {"_target_": f"{HERE}.Reinforce", "scale": 2.0}
    assert build_hook("loss", node) is build_hook("loss", dict(node))
    assert build_hook("loss", {**node, "scale": 1.0}) is not build_hook("loss", node)


@pytest.mark.parametrize(
    ("kind", "node", "message"),
    [
        ("score", {"_target_": f"{HERE}.misses_an_argument"}, r"algo\.score\.function: .*needed"),
        ("score", {"_target_": f"{HERE}.half", "scal": 1}, r"algo\.score\.function\.scal is no argument"),
        ("loss", {"_target_": f"{HERE}.Reinforc"}, "did you mean Reinforce"),
        ("reduction", {"_target_": f"{HERE}.half"}, r"algo\.reduction\.function"),
        ("reduction", {"_target_": f"{HERE}.one_over_tokens", "step": 1}, r"algo\.reduction\.function\.step"),
        ("advantage", {}, r"algo\.advantage\.function\._target_ is missing"),
    ],
)
def test_a_node_that_does_not_fit_its_protocol_is_refused(kind, node, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_hook(kind, node)


def test_an_objective_is_refused_when_its_hook_cannot_be_built() -> None:
    with pytest.raises(UserError, match=r"algo\.loss\.function: .*scale"):
        Objective.of(hooked("loss", "Reinforce"))
