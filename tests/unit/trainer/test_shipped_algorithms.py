"""What ships is what the sources say, and prepares batches as they say: loops over tokens beside the real thing."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict

import numpy as np
import pytest

from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.schema.algo_config import KLPlacement, SftLoss
from rlscale.config.schema.correction_config import CorrectionConfig
from rlscale.data.batches.batch import Batch
from rlscale.trainer.objective import Objective
from rlscale.trainer.preparation import prepare
from tests.shipped import SHIPPED, shipped
from tests.unit.algo.ragged import ragged
from tests.unit.trainer.algorithm_table import TABLE, Row
from tests.unit.trainer.prepared import (
    MAX_RESPONSE_TOKENS,
    asked_of_models,
    collected,
)

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
