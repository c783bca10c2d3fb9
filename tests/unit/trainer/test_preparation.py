"""Preparation beyond what ships: options together, corrections of a whole step, and what is computed before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlscale.config.errors import UserError
from rlscale.config.needs import AlgoNeeds
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    CustomAdvantage,
    GaeAdvantage,
    KLConfig,
    KLEstimator,
    KLPlacement,
    ReturnsAdvantage,
)
from rlscale.config.schema.correction_config import CorrectionConfig, Level, MisAction, RejectionConfig, WeightKind
from rlscale.data.batch import Batch
from rlscale.data.fields import STALE
from rlscale.trainer.objective import Objective
from rlscale.trainer.preparation import prepare
from tests.shipped import SHIPPED, shipped
from tests.unit.algo.ragged import Ragged, ragged
from tests.unit.trainer.prepared import MAX_RESPONSE_TOKENS, asked_of_models, collected, segment_sum_of, token_fields

OLD = ("old_logprobs",)
TIS, ICEPOP, MIS = WeightKind.tis, WeightKind.icepop, WeightKind.mis


def corrected(name: str = "grpo", **correction) -> AlgoConfig:
    return replace(shipped(name), correction=CorrectionConfig(**correction))


def run(config: AlgoConfig, data: Ragged | None = None) -> tuple[Batch, dict[str, float]]:
    return prepare(collected(data or ragged(3)), config, max_response_tokens=MAX_RESPONSE_TOKENS)


# ---- when a pass is made -------------------------------------------------------------------------------------------

REWARD_KL = KLConfig(placement=KLPlacement.reward, estimator=KLEstimator.k1, coef=0.1)


@pytest.mark.parametrize(
    ("made", "columns"),
    [
        (lambda: shipped("grpo"), ()),
        (lambda: replace(shipped("grpo"), kl=KLConfig(placement=KLPlacement.loss, coef=0.1)), ()),
        (lambda: replace(shipped("grpo"), steps_per_iteration=4, epochs_per_iteration=2), ()),
        (lambda: corrected(weight=TIS), ()),
        (lambda: corrected(weight=ICEPOP), ()),
        (lambda: corrected(weight=MIS, level=Level.token), ()),
        (lambda: corrected(opsm_delta=0.1), ()),
        (lambda: corrected(bypass=True), ()),
        (lambda: corrected("gspo", opsm_delta=0.1), ()),
        # what section 8 names
        (lambda: replace(shipped("reinforce_pp"), kl=REWARD_KL), ("old_logprobs", "ref_logprobs")),
        (lambda: replace(shipped("reinforce_pp"), kl=replace(REWARD_KL, coef=0.0)), ()),
        (lambda: replace(shipped("ppo"), kl=KLConfig()), ("old_logprobs", "values")),
        (lambda: shipped("ppo"), ("old_logprobs", "ref_logprobs", "values")),
        (lambda: replace(shipped("grpo"), distil_coef=0.5), ("old_logprobs", "teacher_logprobs")),
        (lambda: replace(shipped("opd"), distil_coef=0.0), ()),
        (lambda: corrected(weight=MIS, level=Level.sequence), OLD),
        (lambda: corrected(weight=MIS, level=Level.geometric), OLD),
        (lambda: corrected("gspo", weight=MIS), OLD),
        (lambda: corrected("gspo_token", weight=TIS), OLD),
        (lambda: corrected("gspo", weight=TIS, level=Level.token), ()),
        (lambda: corrected(weight=TIS, normalise=True), OLD),
        (lambda: corrected(normalise=True), ()),
        (lambda: corrected(rejection=RejectionConfig(level=Level.token, lower=0.5, upper=2.0)), OLD),
        (lambda: corrected(rejection=RejectionConfig(veto=1e-4)), OLD),
        # the engine's log-probs are there already
        (lambda: corrected("reinforce_pp", bypass=True), ("ref_logprobs",)),
        (lambda: corrected("ppo", bypass=True), ("ref_logprobs", "values")),
        (lambda: corrected("opd", bypass=True), ("teacher_logprobs",)),
        # nothing twice, always in the same order
        (
            lambda: replace(
                shipped("ppo"), advantage=CustomAdvantage(reads=["values", "ref_logprobs"]), distil_coef=1.0
            ),
            ("old_logprobs", "ref_logprobs", "teacher_logprobs", "values"),
        ),
        (lambda: replace(shipped("sft"), distil_coef=1.0), ()),
    ],
)
def test_models_are_asked_only_for_what_something_reads(
    made: Callable[[], AlgoConfig], columns: tuple[str, ...]
) -> None:
    config = made()
    needs = AlgoNeeds.of_algo(config)
    assert asked_of_models(config) == columns
    assert needs.critic is ("values" in columns)
    assert needs.teacher is ("teacher_logprobs" in columns)
    in_loss = config.kl.placement is KLPlacement.loss and config.kl.coef != 0.0
    assert needs.reference is ("ref_logprobs" in columns or in_loss)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "sft"])
def test_the_columns_asked_for_are_all_that_preparation_reads(name: str) -> None:
    for config in (shipped(name), corrected(name, weight=MIS, normalise=True), corrected(name, bypass=True)):
        batch = collected(ragged(3, groups=4))
        versions = np.where(batch.column("loss_mask"), np.maximum(batch.column("versions"), 0), -1)
        batch = batch.with_column("versions", versions)
        unasked = {"old_logprobs", "ref_logprobs", "teacher_logprobs", "values"} - set(asked_of_models(config))
        kept = Batch(batch.offsets, {n: column for n, column in batch.columns.items() if n not in unasked})
        prepare(kept, config, max_response_tokens=MAX_RESPONSE_TOKENS)


# ---- advantages ----------------------------------------------------------------------------------------------------


def test_discounts_act_along_the_trainable_tokens_over_segments() -> None:
    """One sample in two segments, an observation in between: reward 1 at the last trainable token, gamma 0.5."""
    batch = Batch(np.array([0, 3, 6]))
    columns = {"loss_mask": [False, True, True, False, True, False], "reward": [1.0, 1.0], "group": [5, 5]}
    columns |= {"sample": [9, 9], "step": [0, 0], "values": [9.0, 1.0, 2.0, 9.0, 3.0, 9.0]}
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    config = replace(shipped("reinforce_pp"), advantage=ReturnsAdvantage(gamma=0.5), kl=KLConfig(), whiten=False)
    made, _ = prepare(batch, config, max_response_tokens=8)
    np.testing.assert_allclose(made.column("advantages"), [0, 0.25, 0.5, 0, 1, 0])
    config = replace(shipped("ppo"), advantage=GaeAdvantage(gamma=0.5, lam=0.5), kl=KLConfig(), whiten=False)
    made, metrics = prepare(batch, config, max_response_tokens=8)
    third = 1.0 - 3.0
    second = 0.5 * 3.0 - 2.0 + 0.25 * third
    first = 0.5 * 2.0 - 1.0 + 0.25 * second
    np.testing.assert_allclose(made.column("advantages"), [0, first, second, 0, third, 0])
    np.testing.assert_allclose(made.column("returns"), [0, first + 1, second + 2, 0, third + 3, 0])
    assert metrics["value_mean"] == 2.0


def turns_of_two_samples() -> Batch:
    """Sample 9 has turns with rewards 1 and 4, one in each of two segments, sample 3 one turn with 2, and 1 besides."""
    batch = Batch(np.array([0, 3, 6, 8]))
    nan = math.nan
    columns = {"loss_mask": [False, True, True, False, True, False, False, True], "reward": [5.0, 5.0, 3.0]}
    columns |= {"sample": [9, 9, 3], "step": [0, 0, 0], "group": [5, 5, 5], "values": [9, 1.0, 2.0, 9, 3.0, 9, 9, 1.0]}
    columns |= {"turn_reward": [nan, nan, 1.0, nan, 4.0, nan, nan, 2.0]}
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    return batch


def credited(name: str, batch: Batch, **replaced: object) -> np.ndarray:
    config = replace(shipped(name), kl=KLConfig(), whiten=False, turn_discount=0.5, **replaced)
    return prepare(batch, config, max_response_tokens=8)[0].column("advantages")


def test_each_turn_is_credited_with_its_own_reward_and_the_discounted_ones_that_follow() -> None:
    batch = turns_of_two_samples()
    np.testing.assert_allclose(credited("reinforce_pp", batch), [0, 3, 3, 0, 4, 0, 0, 3])
    # Deltas 4 - 3; 1 + 3 / 2 - 2; 2 - 1; and 3 - 1 in the other sample.
    gae = GaeAdvantage(gamma=1.0, lam=1.0)
    np.testing.assert_allclose(credited("ppo", batch, advantage=gae), [0, 2, 1, 0, 1, 0, 0, 2])
    # The returns of the group's turns are 3, 4 and 3.
    third = 1 / 3
    centred = [0, -third, -third, 0, 2 * third, 0, 0, -third]
    np.testing.assert_allclose(credited("dr_grpo", batch), centred, rtol=1e-6)
    np.testing.assert_allclose(credited("grpo", batch), np.array(centred) / math.sqrt(third), rtol=1e-5)


@pytest.mark.parametrize("name", ["reinforce_pp", "ppo", "grpo"])
def test_credit_of_turns_does_not_depend_on_the_order_of_the_rows(name: str) -> None:
    batch, order = turns_of_two_samples(), [2, 0, 1]
    apart = [credited(name, batch.select(rows)) for rows in (order, [0, 2, 1])]
    whole = batch.with_column("advantages", credited(name, batch))
    np.testing.assert_array_equal(apart[0], whole.select(order).column("advantages"))
    np.testing.assert_array_equal(apart[1], whole.select([0, 2, 1]).column("advantages"))


def test_stored_samples_without_rewards_of_turns_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^algo\.turn_discount: the samples do not have the rewards of their turns"):
        run(replace(shipped("grpo"), turn_discount=1.0))


def test_stored_samples_without_the_words_of_the_engine_are_refused_in_one_line() -> None:
    config = replace(shipped("grpo"), correction=CorrectionConfig(score_centering=8))
    batch = collected(ragged(3))
    words = np.zeros((batch.tokens_total, 8), np.int32)
    generated = np.flatnonzero(batch.column("loss_mask") & (batch.column("versions") >= 0))
    lacking = words.copy()
    lacking[generated[:2]] = -1
    for found, message in (
        (None, "the samples do not bring the engine's likeliest words"),
        (words[:, :4], "the samples bring 4 words for each token; set it to that"),
        (lacking, "2 generated tokens come without the engine's words"),
    ):
        given = batch if found is None else batch.with_column("sampler_words", found)
        with pytest.raises(UserError, match=rf"^algo\.correction\.score_centering=8: {message}"):
            prepare(given, config, max_response_tokens=MAX_RESPONSE_TOKENS)


@pytest.mark.parametrize("name", ["reinforce_pp", "ppo"])
def test_actor_and_critic_are_given_the_same_kl_term(name: str) -> None:
    """Without whitening, gamma and lambda 1: returns = advantages (+ values), and both move with the coefficient."""
    made = {}
    for coef in (0.0, 0.5):
        config = replace(shipped(name), kl=replace(REWARD_KL, coef=coef), whiten=False)
        made[coef], _ = run(config)
    moved = made[0.5].column("advantages").astype(float) - made[0.0].column("advantages")
    assert np.abs(moved).max() > 0.1
    if name == "ppo":
        targets = made[0.5].column("returns").astype(float) - made[0.0].column("returns")
        np.testing.assert_allclose(targets, moved, atol=1e-6)


def test_the_kl_term_in_the_reward_takes_any_estimator() -> None:
    config = replace(shipped("reinforce_pp_baseline"), whiten=False, kl=replace(REWARD_KL, estimator=KLEstimator.k3))
    plain = replace(shipped("reinforce_pp_baseline"), whiten=False, kl=KLConfig())
    batch, metrics = run(config)
    mask = batch.column("loss_mask")
    d = (batch.column("old_logprobs").astype(float) - batch.column("ref_logprobs"))[mask]
    k3 = np.exp(-d) - 1 + d
    moved = (run(plain)[0].column("advantages").astype(float) - batch.column("advantages"))[mask]
    np.testing.assert_allclose(moved, 0.1 * k3, rtol=1e-4, atol=1e-6)
    assert metrics["kl_reward"] == pytest.approx(k3.mean(), rel=1e-6)


@pytest.mark.parametrize("name", ["grpo", "opd"])
def test_a_kl_term_in_the_reward_that_nothing_reads_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"algo\.kl\.placement"):
        run(replace(shipped(name), kl=REWARD_KL))


def test_distillation_adds_to_any_advantage_before_whitening() -> None:
    plain, _ = run(shipped("grpo"))
    both, _ = run(replace(shipped("grpo"), distil_coef=0.3))
    gap = plain.column("old_logprobs").astype(float) - plain.column("teacher_logprobs")
    mask = plain.column("loss_mask")
    expected = np.where(mask, plain.column("advantages") - 0.3 * gap, 0.0)
    np.testing.assert_allclose(both.column("advantages"), expected, rtol=1e-5, atol=1e-6)
    white, metrics = run(replace(shipped("grpo"), distil_coef=0.3, whiten=True))
    values = white.column("advantages")[mask].astype(float)
    assert values.mean() == pytest.approx(0.0, abs=1e-6)
    assert values.std(ddof=1) == pytest.approx(1.0, rel=1e-5)
    assert not white.column("advantages")[~mask].any()
    assert metrics["advantage_mean"] == pytest.approx(expected[mask].mean(), rel=1e-5)


def test_a_reward_of_each_sample_counts_once_however_many_segments_it_has() -> None:
    """Two samples of one group, rewards 1 and 0; the first in three segments. The mean is 1/2, not 3/4."""
    batch = Batch(np.array([0, 1, 2, 3, 4]))
    columns = {"loss_mask": [True] * 4, "reward": [1.0, 1.0, 1.0, 0.0], "sample": [0, 0, 0, 1]}
    for name, values in {**columns, "group": [0] * 4, "step": [0] * 4}.items():
        batch = batch.with_column(name, values)
    made, _ = prepare(batch, shipped("dr_grpo"), max_response_tokens=8)
    np.testing.assert_allclose(made.column("advantages"), [0.5, 0.5, 0.5, -0.5])
    with pytest.raises(ValueError, match="segments of one sample have different values of 'reward'"):
        prepare(batch.with_column("reward", [1.0, 0.0, 1.0, 0.0]), shipped("dr_grpo"), max_response_tokens=8)


# ---- corrections ---------------------------------------------------------------------------------------------------


def log_ratios(batch: Batch) -> list[list[float]]:
    """old - rollout of the trainable tokens of each segment (float32 columns, float64 arithmetic)."""
    difference = batch.column("old_logprobs").astype(float) - batch.column("rollout_logprobs").astype(float)
    spans = zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    return [[float(difference[t]) for t in range(a, b) if batch.column("loss_mask")[t]] for a, b in spans]


def far(seed: int = 3, steps: int = 1) -> Ragged:
    """An engine that is some way off."""
    data = ragged(seed, groups=6, steps=steps)
    return replace(data, rollout=data.old + 0.4 * np.random.default_rng(5).normal(size=len(data.old)))


@pytest.mark.parametrize("level", [Level.sequence, Level.geometric])
@pytest.mark.parametrize("action", list(MisAction))
def test_weights_of_segments_agree_with_loops(level: Level, action: MisAction) -> None:
    batch, metrics = run(corrected(weight=MIS, level=level, action=action, upper=1.5), far())
    seen, outside = [], []
    for row, ratios in enumerate(log_ratios(batch)):
        if not ratios:
            continue
        w = math.exp(sum(ratios) if level is Level.sequence else sum(ratios) / len(ratios))
        low = 0.0 if action is MisAction.truncate else 1 / 1.5
        expected = 0.0 if action is MisAction.mask and not low <= w <= 1.5 else min(max(w, low), 1.5)
        weights = batch.row("correction", row)[batch.row("loss_mask", row)]
        np.testing.assert_allclose(weights, expected, rtol=1e-5)
        seen += [expected] * len(ratios)
        outside += [not low <= w <= 1.5] * len(ratios)
    assert metrics["correction_mean"] == pytest.approx(np.mean(seen), rel=1e-6)
    assert metrics["correction_outside"] == pytest.approx(np.mean(outside))
    assert any(outside)


def test_gspo_weighs_by_the_geometric_mean_unless_told_otherwise() -> None:
    for name in SHIPPED:
        expected = Level.geometric if name in ("gspo", "gspo_token") else Level.token
        assert AlgoNeeds.of_algo(shipped(name)).weight_level is expected
        assert AlgoNeeds.of_algo(corrected(name, level=Level.sequence)).weight_level is Level.sequence
    implied, _ = run(corrected("gspo", weight=MIS), far())
    explicit, _ = run(corrected("gspo", weight=MIS, level=Level.geometric), far())
    np.testing.assert_array_equal(implied.column("correction"), explicit.column("correction"))


def test_normalised_weights_have_a_mean_of_one_in_every_step() -> None:
    data = far(seed=4, steps=2)
    plain, before = run(corrected(weight=MIS, level=Level.sequence), data)
    batch, metrics = run(corrected(weight=MIS, level=Level.sequence, normalise=True), data)
    step = np.repeat(batch.column("step"), batch.lengths)
    for number in (0, 1):
        tokens = (step == number) & batch.column("loss_mask")
        weights = plain.column("correction")[tokens].astype(float)
        assert abs(weights.mean() - 1) > 1e-3
        np.testing.assert_allclose(batch.column("correction")[tokens], weights / weights.mean(), rtol=1e-5)
    assert metrics == before  # those of the weights as they were


def test_token_weights_are_computed_ahead_only_to_be_normalised() -> None:
    assert not AlgoNeeds.of_algo(corrected(weight=TIS)).weighs_ahead
    assert "correction" not in run(corrected(weight=TIS), far())[0]
    batch, _ = run(corrected(weight=TIS, normalise=True), far())
    flat = [ratio for ratios in log_ratios(batch) for ratio in ratios]
    expected = np.minimum(np.exp(flat), 2.0)
    weights = batch.column("correction")[batch.column("loss_mask")]
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-5)


def test_weights_that_are_all_zero_are_not_divided() -> None:
    data = far()
    data = replace(data, rollout=data.old + 50.0)
    batch, metrics = run(corrected(weight=ICEPOP, normalise=True), data)
    assert not batch.column("correction")[batch.column("loss_mask")].any()
    assert metrics["correction_outside"] == 1.0


@pytest.mark.parametrize(
    "bounds",
    [
        RejectionConfig(level=Level.geometric, lower=0.9, upper=1.2),
        RejectionConfig(level=Level.sequence, lower=0.5, upper=2.0),
        RejectionConfig(level=Level.token, lower=0.5, upper=2.0),
        RejectionConfig(veto=0.6),
    ],
)
def test_rejected_segments_weigh_nothing_and_the_denominators_stay(bounds: RejectionConfig) -> None:
    plain, _ = run(shipped("ppo"), far())
    batch, metrics = run(corrected("ppo", rejection=bounds), far())
    rejected = []
    for row, ratios in enumerate(log_ratios(batch)):
        levels = {Level.sequence: [sum(ratios)], Level.token: ratios, None: []}
        levels[Level.geometric] = [sum(ratios) / max(len(ratios), 1)]
        reject = any(
            not math.log(bounds.lower or 1e-300) <= value <= math.log(bounds.upper or 1e300)
            for value in levels[bounds.level]
        )
        reject |= bounds.veto is not None and any(value < math.log(bounds.veto) for value in ratios)
        weights = batch.row("loss_weight", row)
        np.testing.assert_array_equal(weights, 0.0 if reject else plain.row("loss_weight", row))
        if ratios:
            rejected.append(reject)
    assert metrics["rejected_segments"] == pytest.approx(np.mean(rejected))
    assert 0 < np.mean(rejected) < 1
    for name in ("advantages", "returns", "value_weight"):
        np.testing.assert_array_equal(batch.column(name), plain.column(name))


def test_a_rejected_segment_loses_its_kl_and_entropy_too() -> None:
    """Its mask counts as 0 in every term, while the others keep their denominators: unlike with a weight of 0."""
    pieces = {"kl": KLConfig(placement=KLPlacement.loss, coef=0.3), "entropy_coef": 0.2}
    bounds = RejectionConfig(level=Level.geometric, lower=0.9, upper=1.2)
    plain = replace(shipped("grpo"), **pieces)
    data = far()
    gradients = {}
    for name, config in {"plain": plain, "rejecting": replace(corrected(rejection=bounds), **pieces)}.items():
        batch, metrics = run(config, data)
        lp = torch.from_numpy(data.logprobs).requires_grad_()
        entropy = torch.full_like(lp, 2.0, requires_grad=True)
        loss, _ = Objective.of(config)(lp, entropy, token_fields(batch), segment_sum_of(data.row_of_token))
        gradients[name] = [g.numpy() for g in torch.autograd.grad(loss, (lp, entropy))]
    assert 0 < metrics["rejected_segments"] < 1
    mask, weight = batch.column("loss_mask"), batch.column("loss_weight")
    assert (weight[mask] == 0).any()
    for rejecting, everything in zip(gradients["rejecting"], gradients["plain"], strict=True):
        assert (everything[mask] != 0).all()
        np.testing.assert_array_equal(rejecting, np.where(weight > 0, everything, 0.0))
    np.testing.assert_allclose(gradients["rejecting"][1], -0.2 * weight, rtol=1e-6)


def test_bypass_takes_the_engines_logprobs_for_the_old_ones() -> None:
    config = corrected("reinforce_pp", bypass=True)
    batch = collected(ragged(3))
    without = Batch(batch.offsets, {name: c for name, c in batch.columns.items() if name != "old_logprobs"})
    made, _ = prepare(without, config, max_response_tokens=MAX_RESPONSE_TOKENS)
    np.testing.assert_array_equal(made.column("old_logprobs"), batch.column("rollout_logprobs"))
    as_old = batch.with_column("old_logprobs", batch.column("rollout_logprobs"))
    wanted, _ = prepare(as_old, shipped("reinforce_pp"), max_response_tokens=MAX_RESPONSE_TOKENS)
    np.testing.assert_array_equal(made.column("advantages"), wanted.column("advantages"))
    assert not Objective.of(replace(config, steps_per_iteration=3)).needs_old
    unknown = batch.with_column("versions", np.full(batch.tokens_total, -1))
    with pytest.raises(ValueError, match="lack an engine's log-prob"):
        prepare(unknown, config, max_response_tokens=MAX_RESPONSE_TOKENS)


def test_tokens_without_an_engines_logprob_neither_reject_nor_weigh() -> None:
    data = far()
    data = replace(data, versions=np.full_like(data.versions, -1), rollout=np.full_like(data.rollout, 1e6))
    batch, metrics = run(corrected(weight=MIS, normalise=True, rejection=RejectionConfig(veto=0.5)), data)
    assert metrics["rejected_segments"] == 0.0
    assert metrics["correction_mean"] == 1.0
    assert (batch.column("correction") == 1.0).all()


# ---- tokens over the staleness bound -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo", "ppo", "gspo"])
def test_stale_tokens_leave_the_loss_and_nothing_else_changes(name: str) -> None:
    """Their weight goes; rewards, advantages, the critic's targets and the weights of all others stay."""
    batch = collected(ragged(3))
    stale = batch.column("loss_mask") & (np.arange(batch.tokens_total) % 3 == 0)
    whole, _ = prepare(batch, shipped(name), max_response_tokens=MAX_RESPONSE_TOKENS)
    masked, _ = prepare(batch.with_column(STALE, stale), shipped(name), max_response_tokens=MAX_RESPONSE_TOKENS)
    weighed = [one for one in ("loss_weight", "value_weight") if one in whole]
    assert len(weighed) == (2 if name == "ppo" else 1)
    for column in weighed:
        expected = np.where(stale, 0, whole.column(column))
        assert (expected != whole.column(column)).any()
        assert np.array_equal(masked.column(column), expected)
    for column in set(whole.columns) - set(weighed):
        assert np.array_equal(masked.column(column), whole.column(column)), column
