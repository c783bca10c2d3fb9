from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rlscale.algo.losses import PolicyLoss
from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import AlgoConfig
from rlscale.trainer.hook_results import checked_array, checked_loss, checked_weights
from rlscale.trainer.hooks import build_hook, check_hooks
from rlscale.trainer.objective import Objective
from rlscale.trainer.preparation import prepare
from tests.shipped import shipped
from tests.unit.algo.ragged import ragged
from tests.unit.trainer.prepared import (
    MAX_RESPONSE_TOKENS,
    asked_of_models,
    collected,
    prepared,
    segment_sum_of,
    token_fields,
)

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
    assert asked_of_models(config) == ("ref_logprobs",)
    batch = prepared(config, ragged(3))
    expected = np.where(batch.column("loss_mask"), 2 * batch.column("ref_logprobs"), 0.0)
    np.testing.assert_allclose(batch.column("advantages"), expected)
    assert "returns" not in batch


def test_an_advantage_that_reads_values_has_a_critic_that_learns_what_follows() -> None:
    config = hooked("advantage", "score_minus_value", "algo.advantage.reads=[values]", "algo/score=raw")
    assert AlgoNeeds.of_algo(config).critic
    assert asked_of_models(config) == ("old_logprobs", "values")
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


def test_a_loss_reads_the_reference_where_it_asks_for_it() -> None:
    data = ragged(3)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    without = hooked("loss", "towards_reference")
    assert not AlgoNeeds.of_algo(without).reference
    fields, segment_sum = token_fields(prepared(without, data)), segment_sum_of(data.row_of_token)
    with pytest.raises(UserError, match=r"algo\.loss\.function reads .* ask for it with algo\.loss\.reads=\[ref_log"):
        Objective.of(without)(lp, None, fields, segment_sum)
    config = hooked("loss", "towards_reference", "algo.loss.reads=[ref_logprobs]")
    assert AlgoNeeds.of_algo(config).reference
    assert asked_of_models(config) == ()  # the ranks compute it themselves
    objective = Objective.of(config)
    assert objective.reads_reference
    (gradient,) = torch.autograd.grad(objective(lp, None, fields, segment_sum)[0], lp)
    expected = fields["loss_weight"] * (lp.detach() - fields["ref_logprobs"])
    torch.testing.assert_close(gradient, torch.where(fields["loss_mask"], expected, 0.0).double())


@pytest.mark.parametrize("ahead", [False, True])
def test_a_correction_of_the_users_own(ahead: bool) -> None:
    config = hooked("correction", "mean_of_segment", *(["algo.correction.level=geometric"] if ahead else []))
    assert asked_of_models(config) == (("old_logprobs",) if ahead else ())
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
        ("score", {"_target_": f"{HERE}.half", "scal": 1}, r"algo\.score\.function\.scal is not an argument"),
        ("loss", {"_target_": f"{HERE}.Reinforc"}, "did you mean Reinforce"),
        ("reduction", {"_target_": f"{HERE}.one_over_tokens", "step": 1}, r"algo\.reduction\.function\.step"),
        ("reduction", {"_target_": f"{HERE}.half", "inputs": 1}, r"algo\.reduction\.function\.inputs"),
        ("advantage", {}, r"algo\.advantage\.function\._target_ is missing"),
        (
            "advantage",
            {"_target_": f"{HERE}.NeverCalled"},
            r"algo\.advantage\.function: instances of .*NeverCalled cannot",
        ),
        ("loss", {"_target_": f"{HERE}.TakesTwo"}, r"instances of .*TakesTwo cannot be called like this: missing"),
        ("score", {"_target_": f"{HERE}.Leaves"}, r"algo\.score\.function: .*Leaves cannot be built: SystemExit\(3\)"),
        ("score", {"_target_": HERE}, rf"{HERE} is a module; name a function or class in it, such as {HERE}\.half"),
    ],
)
def test_a_node_that_does_not_fit_its_protocol_is_refused(kind, node, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_hook(kind, node)


def test_an_objective_is_refused_when_its_hook_cannot_be_built() -> None:
    with pytest.raises(UserError, match=r"algo\.loss\.function: .*scale"):
        Objective.of(hooked("loss", "Reinforce"))


def test_every_hook_of_a_configuration_is_built_before_anything_runs() -> None:
    check_hooks(shipped("grpo"))
    kinds = ("score", "advantage", "loss", "correction", "reduction")
    overrides = [f"algo/{kind}=custom" for kind in kinds] + [f"algo.{k}.function._target_=nowhere.fn" for k in kinds]
    with pytest.raises(UserError) as error:
        check_hooks(shipped("grpo", *overrides))
    missing = "_target_=nowhere.fn: no module of that name; is it on PYTHONPATH?"
    assert str(error.value).splitlines() == [f"algo.{kind}.function.{missing}" for kind in kinds]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0, 2.0], "a result of type list; it must return a NumPy array"),
        (None, "a result of type NoneType"),
        (np.ones(2, np.float32), "an array of float32; it must return float64"),
        (np.array([None, 1.0]), "an array of object"),
        (np.ones(2, bool), "an array of bool"),
        (np.ones((2, 1)), r"an array of shape \(2, 1\); it must return \(2,\)"),
        (np.array([1.0, np.inf]), "a number that is not finite"),
    ],
)
@pytest.mark.parametrize("kind", ["score", "advantage", "reduction"])
def test_an_array_of_another_kind_names_the_key(kind: Any, result: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"^algo\.{kind}\.function returned {message}"):
        checked_array(kind, result, (2,))
    np.testing.assert_array_equal(checked_array(kind, np.ones(2), (2,)), np.ones(2))


def policy_loss(**changed: Any) -> Callable[[torch.Tensor], Any]:
    """A loss whose result is right but for what changed."""

    def loss(logprobs: torch.Tensor) -> PolicyLoss:
        never = torch.zeros(2, dtype=torch.bool)
        parts = {"loss": -logprobs, "ratio": torch.ones(2), "clipped_low": never, "clipped_high": never}
        return PolicyLoss(**{**parts, "clamped": never, **changed})

    return loss


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda lp: -lp, "a result of type Tensor; it must return a rlscale.algo.losses.PolicyLoss"),
        (policy_loss(loss=np.ones(2)), "`loss` of type ndarray; it must return a tensor"),
        (policy_loss(loss=torch.ones(2)), "`loss` without gradient"),
        (policy_loss(loss=torch.ones((), requires_grad=True)), r"`loss` of shape \(\); it must return \[T\]"),
        (policy_loss(ratio=1.0), "`ratio` of type float"),
        (policy_loss(clamped=torch.ones(2)), "`clamped` of torch.float32; it must return torch.bool"),
    ],
)
def test_a_loss_that_breaks_its_protocol_names_the_key(loss: Callable[..., Any], message: str) -> None:
    logprobs = torch.zeros(2, requires_grad=True)
    with pytest.raises(UserError, match=rf"^algo\.loss\.function returned {message}"):
        checked_loss(loss(logprobs), logprobs)


def test_a_loss_needs_a_gradient_only_where_there_is_one_to_give() -> None:
    constant = policy_loss(loss=torch.ones(2))
    checked_loss(policy_loss()(logprobs := torch.zeros(2, requires_grad=True)), logprobs)
    checked_loss(constant(logprobs), logprobs.detach())
    with torch.no_grad():
        checked_loss(constant(logprobs), logprobs)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), "a result of type ndarray; it must return a tensor"),
        (torch.ones(2), r"a result of shape \(2,\); it must return \[T\], here \(3,\)"),
        (torch.ones(3, dtype=torch.bool), "a result of torch.bool; it must return floating point"),
        (torch.tensor([1.0, torch.nan, 1.0]), "a weight that is not finite"),
    ],
)
def test_a_correction_that_breaks_its_protocol_names_the_key(weights: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"^algo\.correction\.function returned {message}"):
        checked_weights(weights, torch.zeros(3), torch.tensor([True, True, False]))


def test_what_a_correction_says_of_masked_tokens_does_not_matter() -> None:
    weights = torch.tensor([2.0, 3.0, torch.nan], dtype=torch.float64)
    got = checked_weights(weights, torch.zeros(3), torch.tensor([True, True, False]))
    torch.testing.assert_close(got, torch.tensor([2.0, 3.0, 1.0]))


@pytest.mark.parametrize("ahead", [False, True])
def test_a_correction_that_is_not_finite_stops_the_step_instead_of_its_gradient(ahead: bool) -> None:
    level = "geometric" if ahead else "token"
    config = hooked("correction", "not_finite_weight", f"algo.correction.level={level}")
    data = ragged(3)
    lp, segment_sum = torch.from_numpy(data.logprobs).requires_grad_(), segment_sum_of(data.row_of_token)
    with pytest.raises(UserError, match=r"algo\.correction\.function returned a weight that is not finite"):
        Objective.of(config)(lp, None, token_fields(prepared(config, data)), segment_sum)


def test_a_loss_without_gradient_is_named_by_the_objective() -> None:
    config, data = hooked("loss", "detached"), ragged(3)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    fields, segment_sum = token_fields(prepared(config, data)), segment_sum_of(data.row_of_token)
    with pytest.raises(UserError, match=r"algo\.loss\.function returned `loss` without gradient"):
        Objective.of(config)(lp, None, fields, segment_sum)
    Objective.of(config)(lp.detach(), None, fields, segment_sum)
