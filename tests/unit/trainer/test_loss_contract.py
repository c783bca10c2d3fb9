"""The contract test of losses: what ships passes it, and each mistake is caught by the check that is for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlscale.algo import losses
from rlscale.algo.losses import PolicyLoss
from rlscale.algo.protocols import LossInputs
from rlscale.trainer.hook_contract import (
    Status,
    check_loss,
    failed,
)
from tests.unit.trainer.functions_as_hooks import taking

NARROW = {"eps_low": 3e-4, "eps_high": 4e-4}


def per_token(loss: Callable[..., PolicyLoss], **options: Any) -> Callable[..., PolicyLoss]:
    """A shipped loss that reads no other tokens, as a hook."""
    return lambda x: loss(x.logprobs, x.old_logprobs, x.advantages, **options)


def per_segment(loss: Callable[..., PolicyLoss]) -> Callable[..., PolicyLoss]:
    """A shipped loss that reads the other tokens of a segment."""
    return taking(functools.partial(loss, **NARROW))


LOSSES = {
    "clip": per_token(losses.clip, eps_low=0.2, eps_high=0.28),
    "dual_clip": per_token(losses.clip, eps_low=0.2, eps_high=0.2, dual_clip=3.0),
    "gspo": per_segment(losses.gspo),
    "gspo_token": per_segment(losses.gspo_token),
    "cispo": per_token(losses.cispo, eps_low=1.0, eps_high=4.0),
    "sapo": per_token(losses.sapo, tau_positive=1.0, tau_negative=1.05),
    "sft": lambda x: losses.sft(x.logprobs),
}


@pytest.mark.parametrize("name", LOSSES)
def test_shipped_losses_keep_the_contract(name: str) -> None:
    assert not failed(check_loss(LOSSES[name]))


def policy_loss(loss: torch.Tensor, ratio: torch.Tensor | None = None) -> PolicyLoss:
    never = torch.zeros_like(loss, dtype=torch.bool)
    return PolicyLoss(loss, torch.ones_like(loss).detach() if ratio is None else ratio, never, never, never)


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 3.0 * ctx.saved_tensors[0] * gradient


class RightBackward(WrongBackward):
    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2.0 * ctx.saved_tensors[0] * gradient


def number_of_segment_sums_depends_on_data(lp, old, advantages, mask, segment_sum) -> PolicyLoss:
    drift = lp - old
    if mask.sum() > 40:
        drift = segment_sum(drift)
    return policy_loss(-drift * advantages)


def own_sum_over_tokens(lp, old, advantages, mask, segment_sum) -> PolicyLoss:
    """A smoothing over neighbours, which may be on another rank."""
    return policy_loss(-(lp + lp.detach().roll(1)) * advantages)


def in_place(lp, old, advantages, mask, segment_sum) -> PolicyLoss:
    old.clamp_(min=-0.1)
    return policy_loss(-(lp - old).clamp(-20, 20).exp() * advantages)


BROKEN_LOSSES: dict[str, list[Callable[..., Any]]] = {
    "call": [lambda lp, old: policy_loss(lp), lambda lp, *_: policy_loss(lp / lp.numel() + 0.0 * lp[0])],
    "result": [lambda lp, old, a, m, s: -lp * a, lambda lp, *_: PolicyLoss(-lp, 1.0, lp > 0, lp > 0, lp > 0)],
    "shape": [lambda lp, old, a, m, s: policy_loss((-lp * a).sum())],
    "dtype": [
        lambda lp, old, a, m, s: policy_loss((-lp * a).float()),
        lambda lp, old, a, m, s: PolicyLoss(-lp * a, torch.ones_like(a), a, a, a),
    ],
    "finite": [lambda lp, old, a, m, s: policy_loss(-(lp - old).exp() * a), lambda lp, *_: policy_loss(lp / lp)],
    "deterministic": [lambda lp, old, a, m, s: policy_loss(-lp * torch.rand_like(lp))],
    "arguments": [in_place],
    "metrics": [lambda lp, old, a, m, s: policy_loss(-lp * a, ratio=(lp - old).clamp(-20, 20).exp())],
    "own segment only": [lambda lp, old, a, m, s: policy_loss(-lp * (a - a.sum() / max(len(a), 1)))],
    "masked tokens": [lambda lp, old, a, m, s: policy_loss(-lp * a / s(torch.ones_like(lp)))],
    "shares of a segment": [own_sum_over_tokens, number_of_segment_sums_depends_on_data],
    "gradient": [
        lambda lp, old, a, m, s: policy_loss(-lp.detach() * a),
        lambda lp, old, a, m, s: policy_loss(0.0 * lp - old * a),
    ],
    "finite gradient": [lambda lp, old, a, m, s: policy_loss((lp - old).square().sqrt())],
    "finite differences": [lambda lp, old, a, m, s: policy_loss(WrongBackward.apply(lp))],
}


@pytest.mark.parametrize(
    ("check", "loss"), [(check, loss) for check, broken in BROKEN_LOSSES.items() for loss in broken]
)
def test_a_broken_loss_fails_the_check_that_is_for_it(check: str, loss: Callable[..., Any]) -> None:
    assert check in [finding.check for finding in failed(check_loss(taking(loss)))]


def test_every_check_of_a_loss_has_a_mistake_that_it_finds() -> None:
    checks = [finding.check for finding in check_loss(LOSSES["clip"])]
    assert set(checks) == {*BROKEN_LOSSES, "speed", "columns"}


def test_only_the_check_that_is_for_it_fails() -> None:
    (finding,) = failed(check_loss(taking(BROKEN_LOSSES["finite differences"][0])))
    assert finding.check == "finite differences"
    (finding,) = failed(check_loss(taking(BROKEN_LOSSES["metrics"][0])))
    assert finding.found.startswith("ratio has one")


def test_a_function_with_a_backward_of_its_own_and_a_block_without_gradient_are_fine() -> None:
    assert not failed(check_loss(lambda x: policy_loss(RightBackward.apply(x.logprobs))))

    def without_grad(lp, old, a, m, s) -> PolicyLoss:
        with torch.no_grad():
            weight = (lp - old).clamp(-1, 1).exp()
        return policy_loss(-weight * a * lp)

    assert not failed(check_loss(taking(without_grad)))


def test_a_kink_at_few_tokens_is_a_warning() -> None:
    def kinked(lp, old, a, m, s) -> PolicyLoss:
        """Where A is large, a corner lies between the two points of the difference."""
        corner = (lp - lp.detach() - 5e-4).relu()
        return policy_loss(torch.where(a.abs() > 1.8, corner, -lp * a))

    findings = {finding.check: finding for finding in check_loss(taking(kinked))}
    assert not failed(findings.values())
    assert findings["finite differences"].status is Status.warned
    assert "2 of 5" in findings["finite differences"].found


def test_a_raised_exception_names_its_line() -> None:
    finding, _ = check_loss(lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    assert finding.status is Status.failed
    assert finding.found.startswith("ZeroDivisionError: division by zero at test_loss_contract.py:")


def test_a_loss_is_told_which_columns_it_must_ask_for() -> None:
    def towards_the_reference(x: LossInputs) -> PolicyLoss:
        return policy_loss((x.logprobs - x.columns["ref_logprobs"]).square() / 2)

    *_, note = findings = check_loss(towards_the_reference)
    assert not failed(findings)
    assert note.found == "it read ref_logprobs; a run needs algo.loss.reads=[ref_logprobs]"
    (call,) = failed(check_loss(towards_the_reference, reads=[]))
    assert "ask for it with algo.loss.reads=[ref_logprobs]" in call.found
