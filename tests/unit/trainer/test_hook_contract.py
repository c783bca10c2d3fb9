"""The contract tests of hooks but losses: what ships passes, and each mistake is caught by the check that is for it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rlscale.algo import advantages, corrections, reduction, scores
from rlscale.algo.protocols import AdvantageInputs
from rlscale.algo.trajectories import Trajectories
from rlscale.trainer.hook_contract import (
    CHECKS,
    Status,
    check_advantage,
    check_correction,
    check_reduction,
    check_score,
    failed,
)
from tests.unit.trainer.functions_as_hooks import taking


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
