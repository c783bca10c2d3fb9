"""The contract tests of hooks: what ships passes them, and each mistake is caught by the check that is for it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rlscale.algo import advantages, corrections, losses, reduction, scores
from rlscale.algo.losses import PolicyLoss
from rlscale.algo.protocols import AdvantageInputs, LossInputs
from rlscale.algo.trajectories import Trajectories
from rlscale.trainer.hook_contract import (
    CHECKS,
    Status,
    check_advantage,
    check_correction,
    check_loss,
    check_reduction,
    check_score,
    failed,
)

NARROW = {"eps_low": 3e-4, "eps_high": 4e-4}


def per_token(loss: Callable[..., PolicyLoss], **options: Any) -> Callable[..., PolicyLoss]:
    """A shipped loss that reads no other tokens, as a hook."""
    return lambda x: loss(x.logprobs, x.old_logprobs, x.advantages, **options)


def per_segment(loss: Callable[..., PolicyLoss]) -> Callable[..., PolicyLoss]:
    """A shipped loss that reads the other tokens of a segment."""
    return taking(functools.partial(loss, **NARROW))


def taking(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of one object from a function of its values, in their order and without the columns."""
    return lambda x: hook(*(getattr(x, part.name) for part in dataclasses.fields(x) if part.name != "columns"))


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


@pytest.mark.parametrize("kind", scores.KINDS)
def test_shipped_scores_keep_the_contract(kind: str) -> None:
    assert not failed(check_score(taking(functools.partial(scores.score, kind))))


@pytest.mark.parametrize("kind", reduction.KINDS)
def test_shipped_reductions_keep_the_contract(kind: str) -> None:
    def weights(mask: Any, lengths: Any, sample: Any, step: Any, most: int) -> Any:
        rows = {"lengths": lengths, "sample": sample, "step": step}
        return reduction.token_weights(kind, mask, **rows, max_response_tokens=most)

    assert not failed(check_reduction(taking(weights)))


@pytest.mark.parametrize("kind", corrections.KINDS)
@pytest.mark.parametrize("level", corrections.LEVELS)
def test_shipped_corrections_keep_the_contract(kind: str, level: str) -> None:
    weights = taking(lambda *x: corrections.importance_weights(kind, *x, level=level).weights)
    assert not failed(check_correction(weights))


def broadcast(x: AdvantageInputs) -> np.ndarray:
    return advantages.broadcast(x.scores, x.sample, x.lengths, x.mask)


def gae(x: AdvantageInputs, lam: float = 0.95) -> np.ndarray:
    trajectories = Trajectories.of(x.sample, x.lengths, x.mask)
    rho = advantages.reward_tokens(x.scores, x.columns["old_logprobs"] - x.columns["ref_logprobs"], 0.01, trajectories)
    return advantages.gae(rho, x.columns["values"], trajectories, gamma=0.99, lam=lam)[0]


def distilled_and_whitened(x: AdvantageInputs) -> np.ndarray:
    old, teacher = x.columns["old_logprobs"], x.columns["teacher_logprobs"]
    return advantages.whiten(advantages.distil(broadcast(x), old, teacher, x.mask, 0.5), x.mask)


@pytest.mark.parametrize("advantage", [broadcast, gae, distilled_and_whitened])
def test_shipped_advantages_keep_the_contract(advantage: Callable[..., Any]) -> None:
    assert not failed(check_advantage(advantage))


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
    assert finding.found.startswith("ZeroDivisionError: division by zero at test_hook_contract.py:")


def in_place_score(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    rewards -= rewards.mean()
    return rewards


BROKEN_SCORES: dict[str, list[Callable[..., Any]]] = {
    "result": [lambda rewards, groups: rewards.tolist()],
    "shape": [lambda rewards, groups: np.unique(groups) * 1.0, lambda rewards, groups: rewards[:, None]],
    "dtype": [lambda rewards, groups: rewards.astype(np.float32), lambda rewards, groups: (rewards > 0).astype(int)],
    "finite": [lambda rewards, groups: (rewards - rewards.mean()) / rewards.std()],
    "deterministic": [lambda rewards, groups: rewards + np.random.random(len(rewards))],
    "arguments": [in_place_score],
    "order of samples": [lambda rewards, groups: rewards - rewards[0], lambda rewards, groups: np.cumsum(rewards)],
    "group ids": [lambda rewards, groups: rewards - groups.astype(float)],
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("check", "score"), [(c, score) for c, broken in BROKEN_SCORES.items() for score in broken])
def test_a_broken_score_fails_the_check_that_is_for_it(check: str, score: Callable[..., Any]) -> None:
    assert check in [finding.check for finding in failed(check_score(taking(score)))]


def reads_masked_values(x: AdvantageInputs) -> np.ndarray:
    return np.where(x.mask, broadcast(x) - np.mean(x.columns["values"]), 0.0)


def by_place_in_the_batch(x: AdvantageInputs) -> np.ndarray:
    return np.where(x.mask, np.arange(len(x.mask)) / 10.0, 0.0)


def whitens_in_place(x: AdvantageInputs) -> np.ndarray:
    x.scores[:] = x.scores - x.scores.mean()
    return broadcast(x)


BROKEN_ADVANTAGES: dict[str, Callable[..., Any]] = {
    "zero where masked": lambda x: np.repeat(x.scores[x.sample], x.lengths),
    "masked tokens": reads_masked_values,
    "order of segments": by_place_in_the_batch,
    "arguments": whitens_in_place,
    "finite": lambda x: np.where(x.mask, x.columns["values"] / np.zeros(len(x.mask)), 0.0),
    "shape": lambda x: x.scores,
}


@pytest.mark.parametrize("check", BROKEN_ADVANTAGES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_broken_advantage_fails_the_check_that_is_for_it(check: str) -> None:
    assert check in [finding.check for finding in failed(check_advantage(BROKEN_ADVANTAGES[check]))]


def mean_over_everything(mask: np.ndarray, *_: Any) -> np.ndarray:
    return np.where(mask, 1.0 / max(mask.sum(), 1), 0.0)


def first_segment_twice(mask: np.ndarray, lengths: np.ndarray, *_: Any) -> np.ndarray:
    return np.where(mask, np.repeat(np.arange(len(lengths)) == 0, lengths) + 1.0, 0.0)


BROKEN_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "steps": mean_over_everything,
    "order of segments": first_segment_twice,
    "zero where masked": lambda mask, *_: np.ones(len(mask)),
    "weights": lambda mask, *_: np.zeros(len(mask)),
    "finite": lambda mask, *_: np.where(mask.any(), mask * 1.0, np.nan),
    "call": lambda mask: mask * 1.0,
}


@pytest.mark.parametrize("check", BROKEN_REDUCTIONS)
def test_a_broken_reduction_fails_the_check_that_is_for_it(check: str) -> None:
    assert check in [finding.check for finding in failed(check_reduction(taking(BROKEN_REDUCTIONS[check])))]


def over_the_batch(log_ratio: torch.Tensor, mask: torch.Tensor, segment_sum: Any) -> torch.Tensor:
    weights = log_ratio.clamp(-20, 20).exp()
    return weights / (weights.sum() + 1e-6)


BROKEN_CORRECTIONS: dict[str, Callable[..., Any]] = {
    "own segment only": over_the_batch,
    "no gradient": lambda x, mask, s: x.clamp(-20, 20).exp() * torch.ones(1, dtype=x.dtype, requires_grad=True),
    "finite": lambda x, mask, s: (-((2.0 * x) ** 2)).exp() / (-((2.0 * x) ** 2)).exp(),
    "masked tokens": lambda x, mask, s: s(x) / s(torch.ones_like(x)),
    "dtype": lambda x, mask, s: x < 1.0,
    "arguments": lambda x, mask, s: x.clamp_(-1, 1),
    "deterministic": lambda x, mask, s: torch.rand_like(x),
    "shares of a segment": lambda x, mask, s: x.clamp(-1, 1).cumsum(0) - x.clamp(-1, 1).cumsum(0).roll(1) + x.roll(1),
}


@pytest.mark.parametrize("check", BROKEN_CORRECTIONS)
def test_a_broken_correction_fails_the_check_that_is_for_it(check: str) -> None:
    assert check in [finding.check for finding in failed(check_correction(taking(BROKEN_CORRECTIONS[check])))]


@pytest.mark.parametrize(
    ("advantage", "reads", "found"),
    [
        (broadcast, None, "it read none; a run needs no algo.advantage.reads"),
        (gae, None, "it read old_logprobs, ref_logprobs, values; a run needs "
         "algo.advantage.reads=[old_logprobs,ref_logprobs,values]"),
        (broadcast, ["values"], "it read none, and not values; a run needs no algo.advantage.reads"),
    ],
)  # fmt: skip
def test_a_note_says_which_columns_an_advantage_read(advantage: Callable[..., Any], reads: Any, found: str) -> None:
    findings = check_advantage(advantage, reads=reads)
    assert not failed(findings)
    assert (findings[-1].status, findings[-1].found) == (Status.noted, found)


def test_an_advantage_is_given_the_columns_that_are_named_and_no_others() -> None:
    assert not failed(check_advantage(gae, reads=["old_logprobs", "ref_logprobs", "values"]))
    *_, call, note = check_advantage(gae, reads=["old_logprobs", "values"])
    assert (call.check, call.status) == ("call", Status.failed)
    assert "ask for it with algo.advantage.reads=[ref_logprobs]" in call.found
    assert note.found.startswith(
        "it read old_logprobs, ref_logprobs, of which ref_logprobs was not given; a run needs at"
    )


def test_a_loss_is_told_which_columns_it_must_ask_for() -> None:
    def towards_the_reference(x: LossInputs) -> PolicyLoss:
        return policy_loss((x.logprobs - x.columns["ref_logprobs"]).square() / 2)

    *_, note = findings = check_loss(towards_the_reference)
    assert not failed(findings)
    assert note.found == "it read ref_logprobs; a run needs algo.loss.reads=[ref_logprobs]"
    (call,) = failed(check_loss(towards_the_reference, reads=[]))
    assert "ask for it with algo.loss.reads=[ref_logprobs]" in call.found


def test_an_advantage_may_make_other_inputs_of_its_own() -> None:
    assert not failed(check_advantage(lambda x: gae(dataclasses.replace(x, scores=2 * x.scores))))


def leaves(*_: Any) -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize("kind", CHECKS)
def test_a_hook_that_ends_the_process_is_a_finding(kind: str) -> None:
    (finding,) = failed(CHECKS[kind](lambda *given, **named: leaves()))
    assert finding.found.startswith("SystemExit: 3 at test_hook_contract.py:")


def test_a_slow_hook_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlscale.trainer.hook_contract.results.SLOW_S", 0.0)
    findings = check_score(taking(functools.partial(scores.score, "raw")))
    assert not failed(findings)
    assert findings[-1].status is Status.warned


def test_there_is_a_contract_for_every_kind() -> None:
    assert list(CHECKS) == ["score", "advantage", "loss", "correction", "reduction"]
