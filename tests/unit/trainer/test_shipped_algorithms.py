"""What ships is what the sources say, and it is computed as they say: plain loops over tokens beside the real thing."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from rlscale.config.needs import AlgoNeeds
from rlscale.config.schema.algo_config import KLPlacement, SftLoss
from rlscale.config.schema.correction_config import CorrectionConfig
from rlscale.data.batch import Batch
from rlscale.trainer.objective import Objective
from rlscale.trainer.preparation import prepare
from tests.shipped import SHIPPED, shipped
from tests.unit.algo.ragged import ragged
from tests.unit.trainer.prepared import (
    MAX_RESPONSE_TOKENS,
    asked_of_models,
    collected,
    prepared,
    segment_sum_of,
    token_fields,
)


@dataclass(frozen=True)
class Row:
    """A row of the table of shipped algorithms."""

    score: str
    advantage: str
    kl: str
    loss: str
    bounds: tuple[float, ...]
    reduction: str
    whiten: bool = False
    distil: float = 0.0


TABLE = {
    "grpo": Row("group_mean_std", "broadcast", "none", "clip", (0.2, 0.2), "sample_mean"),
    "dr_grpo": Row("group_mean", "broadcast", "none", "clip", (0.2, 0.2), "constant"),
    "dapo": Row("group_mean_std", "broadcast", "none", "clip", (0.2, 0.28), "token_mean"),
    "rloo": Row("leave_one_out", "broadcast", "none", "clip", (0.2, 0.2), "sample_sum"),
    "gspo": Row("group_mean_std", "broadcast", "none", "gspo", (3e-4, 4e-4), "sample_mean"),
    "gspo_token": Row("group_mean_std", "broadcast", "none", "gspo_token", (3e-4, 4e-4), "sample_mean"),
    "cispo": Row("group_mean_std", "broadcast", "none", "cispo", (1.0, 4.0), "token_mean"),
    "sapo": Row("group_mean_std", "broadcast", "none", "sapo", (1.0, 1.05), "sample_mean"),
    "reinforce_pp": Row("raw", "returns", "reward", "clip", (0.2, 0.2), "token_mean", whiten=True),
    "reinforce_pp_baseline": Row("group_mean", "baseline", "reward", "clip", (0.2, 0.2), "token_mean", whiten=True),
    "ppo": Row("raw", "gae", "reward", "clip", (0.2, 0.2), "token_mean", whiten=True),
    "opd": Row("none", "none", "none", "clip", (0.2, 0.2), "token_mean", distil=1.0),
    "sft": Row("none", "none", "none", "sft", (), "token_mean"),
}
"""Section 9 of the mathematics, by hand."""

SCHEMAS = {
    "broadcast": "BroadcastAdvantage",
    "returns": "ReturnsAdvantage",
    "baseline": "BaselineAdvantage",
    "gae": "GaeAdvantage",
    "none": "NoAdvantage",
    "clip": "ClipLoss",
    "gspo": "GspoLoss",
    "gspo_token": "GspoTokenLoss",
    "cispo": "CispoLoss",
    "sapo": "SapoLoss",
    "sft": "SftLoss",
}


def test_every_algorithm_of_the_table_ships_and_no_other() -> None:
    assert set(SHIPPED) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_the_shipped_settings_are_those_of_the_sources(name: str) -> None:
    config, row = shipped(name), TABLE[name]
    assert config.name == name
    assert config.score.kind.value == row.score
    assert type(config.advantage).__name__ == SCHEMAS[row.advantage]
    assert type(config.loss).__name__ == SCHEMAS[row.loss]
    settings = {key: value for key, value in asdict(config.loss).items() if value is not None}
    assert tuple(settings.values()) == row.bounds
    assert config.kl.placement.value == row.kl
    assert config.kl.coef == (1e-3 if row.kl == "reward" else 0.0)
    assert row.kl != "reward" or config.kl.chosen.value == "k1"
    assert config.reduction.kind.value == row.reduction
    assert config.whiten is row.whiten
    assert config.distil_coef == row.distil
    assert config.correction == CorrectionConfig()
    assert config.entropy_coef == 0.0
    assert (config.steps_per_iteration, config.epochs_per_iteration) == (1, 1)
    assert all(value == 1.0 for value in asdict(config.advantage).values())  # gamma and lambda


def test_only_dapo_shapes_long_answers_and_replaces_groups_without_a_signal() -> None:
    for name in SHIPPED:
        config = shipped(name)
        assert (config.overlong.penalty, config.refill.drop_equal) == ((1.0, True) if name == "dapo" else (0.0, False))


def test_each_algorithm_asks_for_the_models_that_it_reads() -> None:
    penalised = ("old_logprobs", "ref_logprobs")
    wanted: dict[str, tuple[str, ...]] = dict.fromkeys(TABLE, ())
    wanted |= {"reinforce_pp": penalised, "reinforce_pp_baseline": penalised, "ppo": (*penalised, "values")}
    wanted |= {"opd": ("old_logprobs", "teacher_logprobs")}
    for name, columns in wanted.items():
        config = shipped(name)
        needs = AlgoNeeds.of_algo(config)
        assert asked_of_models(config) == columns
        assert needs.critic is (name == "ppo")
        assert needs.teacher is (name == "opd")
        assert needs.reference is (config.kl.placement is KLPlacement.reward)
        assert not Objective.of(config).needs_old


# ---- advantages and weights, by loops ------------------------------------------------------------------------------


def tokens_of_samples(batch: Batch) -> dict[int, list[int]]:
    """Positions of the trainable tokens of each sample, in the order of its segments."""
    found: dict[int, list[int]] = {}
    for row, sample in enumerate(batch.column("sample").tolist()):
        places = range(batch.offsets[row], batch.offsets[row + 1])
        found.setdefault(sample, []).extend(t for t in places if batch.column("loss_mask")[t])
    return found


def scores_by_loops(kind: str, batch: Batch) -> dict[int, float]:
    """Score of each sample."""
    reward = dict(zip(batch.column("sample").tolist(), batch.column("reward").tolist(), strict=True))
    group = dict(zip(batch.column("sample").tolist(), batch.column("group").tolist(), strict=True))
    scores = {}
    for sample, r in reward.items():
        members = [reward[other] for other in reward if group[other] == group[sample]]
        if kind == "raw":
            scores[sample] = r
        elif kind == "none" or max(members) == min(members):
            scores[sample] = 0.0
        elif kind == "group_mean":
            scores[sample] = r - statistics.fmean(members)
        elif kind == "group_mean_std":
            scores[sample] = (r - statistics.fmean(members)) / (statistics.stdev(members) + 1e-6)
        else:
            scores[sample] = r - (sum(members) - r) / (len(members) - 1)
    return scores


def advantages_by_loops(row: Row, batch: Batch) -> tuple[dict[int, float], dict[int, float]]:
    """Advantage of each trainable token before whitening, and returns where there is a critic."""
    old, ref, teacher, values = (
        batch.column(name).astype(float) for name in ("old_logprobs", "ref_logprobs", "teacher_logprobs", "values")
    )
    scores = scores_by_loops(row.score, batch)
    advantages: dict[int, float] = {}
    returns: dict[int, float] = {}
    for sample, tokens in tokens_of_samples(batch).items():
        coef = 1e-3 if row.kl == "reward" else 0.0
        kl = [old[t] - ref[t] for t in tokens]
        rho = [-coef * k for k in kl]
        if tokens:
            rho[-1] += scores[sample]
        for place, t in enumerate(tokens):
            if row.advantage == "broadcast":
                advantages[t] = scores[sample]
            elif row.advantage == "baseline":
                advantages[t] = scores[sample] - coef * kl[place]
            elif row.advantage == "returns":
                advantages[t] = sum(rho[place:])
            elif row.advantage == "gae":  # gamma = lambda = 1: all that follows, less the value
                advantages[t] = sum(rho[place:]) - values[t]
                returns[t] = sum(rho[place:])
            else:
                advantages[t] = 0.0
            advantages[t] -= row.distil * (old[t] - teacher[t])
    return advantages, returns


def weights_by_loops(kind: str, batch: Batch) -> dict[int, float]:
    """Weight of each trainable token; one step."""
    samples = {sample: tokens for sample, tokens in tokens_of_samples(batch).items() if tokens}
    total = sum(len(tokens) for tokens in samples.values())
    weights = {}
    for tokens in samples.values():
        weight = {
            "sample_mean": 1 / (len(samples) * len(tokens)),
            "sample_sum": 1 / len(samples),
            "token_mean": 1 / total,
            "constant": 1 / (len(samples) * MAX_RESPONSE_TOKENS),
        }[kind]
        weights |= dict.fromkeys(tokens, weight)
    return weights


def spread(values: dict[int, float], batch: Batch) -> np.ndarray:
    column = np.zeros(batch.tokens_total)
    column[list(values)] = list(values.values())
    return column


@pytest.mark.parametrize("name", TABLE)
def test_preparation_agrees_with_loops(name: str) -> None:
    config, row, batch = shipped(name), TABLE[name], collected(ragged(5, groups=6))
    made, metrics = prepare(batch, config, max_response_tokens=MAX_RESPONSE_TOKENS)
    np.testing.assert_allclose(made.column("loss_weight"), spread(weights_by_loops(row.reduction, batch), batch), 1e-6)
    if name == "sft":
        assert "advantages" not in made
        assert metrics == {}
        return
    advantages, returns = advantages_by_loops(row, batch)
    values = list(advantages.values())
    assert metrics["advantage_mean"] == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert metrics["advantage_std"] == pytest.approx(statistics.pstdev(values), rel=1e-9)
    if row.whiten:
        mean, variance = statistics.fmean(values), statistics.variance(values)
        advantages = {t: (a - mean) / math.sqrt(variance + 1e-8) for t, a in advantages.items()}
    np.testing.assert_allclose(made.column("advantages"), spread(advantages, batch), rtol=1e-5, atol=1e-6)
    assert np.abs(made.column("advantages")).max() > 0.1
    assert ("returns" in made) == ("value_weight" in made) == ("explained_variance" in metrics) == (name == "ppo")
    assert ("kl_reward" in metrics) == (row.kl == "reward")
    if row.kl == "reward":
        kl = [batch.column("old_logprobs")[t] - batch.column("ref_logprobs")[t] for t in advantages]
        assert metrics["kl_reward"] == pytest.approx(statistics.fmean(map(float, kl)), rel=1e-5)
    if name == "ppo":
        np.testing.assert_allclose(made.column("returns"), spread(returns, batch), rtol=1e-5, atol=1e-6)
        token_mean = spread(weights_by_loops("token_mean", batch), batch)
        np.testing.assert_allclose(made.column("value_weight"), token_mean, 1e-6)
        error = [returns[t] - float(batch.column("values")[t]) for t in returns]
        explained = 1 - statistics.pvariance(error) / statistics.pvariance(returns.values())
        assert metrics["explained_variance"] == pytest.approx(explained, rel=1e-9)
        assert metrics["return_mean"] == pytest.approx(statistics.fmean(returns.values()), rel=1e-9)


# ---- losses, by loops ----------------------------------------------------------------------------------------------


def loss_and_slope(row: Row, lp: float, log_ratio: float, a: float) -> tuple[float, float]:
    """Loss of a token and its derivative by the token's own log-prob; `log_ratio` is the segment's mean for GSPO.

    For GSPO proper the derivative is that by the segment's log ratio.
    """
    ratio = math.exp(log_ratio)
    if row.loss == "sft":
        return -lp, -1.0
    if row.loss == "sapo":
        tau = row.bounds[0] if a > 0 else row.bounds[1]
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        return -4 / tau * gate * a, -4 * gate * (1 - gate) * ratio * a
    low, high = 1 - row.bounds[0], 1 + row.bounds[1]
    bounded = min(max(ratio, low), high)
    if row.loss == "cispo":
        return -bounded * a * lp, -bounded * a
    value = max(-ratio * a, -bounded * a)
    return value, (-ratio * a if value == -ratio * a else 0.0)


@pytest.mark.parametrize("noise", [1e-4, 0.3])
@pytest.mark.parametrize("name", TABLE)
def test_loss_and_gradient_of_a_step_agree_with_loops(name: str, noise: float) -> None:
    row, data = TABLE[name], ragged(8, groups=6)
    data = replace(data, logprobs=data.old + noise * np.random.default_rng(3).normal(size=len(data.old)))
    batch = prepared(shipped(name), data)
    fields = token_fields(batch)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    loss, _ = Objective.of(shipped(name))(lp, None, fields, segment_sum_of(data.row_of_token))
    (gradient,) = torch.autograd.grad(loss, lp)

    column: dict[str, Any] = {n: v.double().numpy() for n, v in fields.items()}
    expected, slopes, outside = 0.0, np.zeros(batch.tokens_total), 0
    for r in range(batch.rows):
        tokens = [t for t in range(batch.offsets[r], batch.offsets[r + 1]) if data.mask[t]]
        log_ratios = [data.logprobs[t] - column["old_logprobs"][t] for t in tokens]
        if row.loss.startswith("gspo") and tokens:
            log_ratios = [statistics.fmean(log_ratios)] * len(tokens)
        for t, log_ratio in zip(tokens, log_ratios, strict=True):
            a = 0.0 if row.loss == "sft" else column["advantages"][t]
            value, slope = loss_and_slope(row, data.logprobs[t], log_ratio, a)
            expected += column["loss_weight"][t] * value
            outside += a != 0.0 and slope == 0.0
            if row.loss == "gspo":  # every token of the segment moves the ratio of all
                slopes[tokens] += column["loss_weight"][t] * slope / len(tokens)
            else:
                slopes[t] += column["loss_weight"][t] * slope
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-9, atol=1e-12)
    if noise > 0.1 and row.loss in ("clip", "gspo", "gspo_token"):
        assert outside > 0


@pytest.mark.parametrize("name", [name for name in TABLE if name != "sft"])
def test_on_policy_every_loss_has_the_policy_gradient(name: str) -> None:
    """At ratio 1 the gradient is minus weight times advantage (GSPO: shared over the segment, the same here)."""
    data = ragged(4)
    fields = token_fields(prepared(shipped(name), data))
    del fields["old_logprobs"]
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    loss, _ = Objective.of(shipped(name))(lp, None, fields, segment_sum_of(data.row_of_token))
    (gradient,) = torch.autograd.grad(loss, lp)
    torch.testing.assert_close(gradient, (-fields["advantages"] * fields["loss_weight"]).double(), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", TABLE)
def test_extreme_logprobs_stay_finite(name: str) -> None:
    data = ragged(1)
    sign = np.where(np.arange(len(data.old)) % 2, 300.0, -300.0)
    data = replace(data, old=data.old + sign, ref=data.ref - sign, rollout=data.rollout - sign)
    batch, metrics = prepare(collected(data), shipped(name), max_response_tokens=MAX_RESPONSE_TOKENS)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    loss, shares = Objective.of(shipped(name))(lp, None, token_fields(batch), segment_sum_of(data.row_of_token))
    loss.backward()
    assert lp.grad is not None
    assert torch.isfinite(lp.grad).all()
    assert all(math.isfinite(value) for value in [loss.item(), *metrics.values()])
    assert all(torch.isfinite(value) for value in shares.sums.values())


@pytest.mark.parametrize("name", TABLE)
def test_masked_tokens_are_never_read(name: str) -> None:
    """Whatever stands where nothing is trainable (NaN included), every number stays the same."""
    data, config = ragged(6), shipped(name)
    clean = collected(data)
    dirty = clean
    for column in ("old_logprobs", "ref_logprobs", "teacher_logprobs", "values", "rollout_logprobs"):
        dirty = dirty.with_column(column, np.where(data.mask, clean.column(column), np.nan))
    both = [prepare(batch, config, max_response_tokens=MAX_RESPONSE_TOKENS) for batch in (clean, dirty)]
    assert both[0][1] == both[1][1]
    for column in ("loss_weight", "advantages", "returns", "value_weight"):
        assert (column in both[0][0]) == (column in both[1][0])
        if column in both[0][0]:
            np.testing.assert_array_equal(both[0][0].column(column), both[1][0].column(column))
    losses = []
    for batch, lp in ((both[0][0], data.logprobs), (both[1][0], np.where(data.mask, data.logprobs, np.nan))):
        given = torch.from_numpy(lp).requires_grad_()
        loss, _ = Objective.of(config)(given, given, token_fields(batch), segment_sum_of(data.row_of_token))
        losses.append((loss.item(), torch.autograd.grad(loss, given)[0].numpy()))
    assert losses[0][0] == losses[1][0]
    np.testing.assert_array_equal(losses[0][1], losses[1][1])


@pytest.mark.parametrize("name", TABLE)
def test_a_batch_with_nothing_trainable_has_no_loss_and_no_made_up_metrics(name: str) -> None:
    data = ragged(2)
    data = replace(data, mask=np.zeros_like(data.mask), versions=np.full_like(data.versions, -1))
    batch, metrics = prepare(collected(data), shipped(name), max_response_tokens=MAX_RESPONSE_TOKENS)
    assert metrics == {}
    assert not batch.column("loss_weight").any()
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    loss, _ = Objective.of(shipped(name))(lp, None, token_fields(batch), segment_sum_of(data.row_of_token))
    assert loss.item() == 0.0
    assert not torch.autograd.grad(loss, lp)[0].any()


@pytest.mark.parametrize("name", TABLE)
def test_an_algorithm_without_a_score_never_reads_rewards(name: str) -> None:
    batch = collected(ragged(2))
    batch = batch.with_column("reward", np.full(batch.rows, np.nan))
    if TABLE[name].score == "none":
        prepare(batch, shipped(name), max_response_tokens=MAX_RESPONSE_TOKENS)
        return
    with pytest.raises(ValueError, match="reward"):
        prepare(batch, shipped(name), max_response_tokens=MAX_RESPONSE_TOKENS)


@pytest.mark.parametrize("name", TABLE)
def test_preparation_does_not_depend_on_the_order_of_the_rows(name: str) -> None:
    batch = collected(ragged(9, groups=6, steps=2))
    draw = np.random.default_rng(1)
    # Segments of one sample keep their order: that of the trajectory.
    place = draw.permutation(batch.rows).astype(float)
    for sample in np.unique(batch.column("sample")):
        own = np.flatnonzero(batch.column("sample") == sample)
        place[own] = np.sort(place[own])
    order = np.argsort(place)
    made, metrics = prepare(batch, shipped(name), max_response_tokens=MAX_RESPONSE_TOKENS)
    moved, again = prepare(batch.select(order), shipped(name), max_response_tokens=MAX_RESPONSE_TOKENS)
    assert metrics == pytest.approx(again, rel=1e-12)
    there = made.select(order)
    assert set(there.columns) == set(moved.columns)
    for column, values in there.columns.items():
        np.testing.assert_allclose(moved.column(column), values, rtol=1e-6, atol=1e-9)


def test_sft_is_the_only_supervised_one() -> None:
    assert [name for name in SHIPPED if isinstance(shipped(name).loss, SftLoss)] == ["sft"]
