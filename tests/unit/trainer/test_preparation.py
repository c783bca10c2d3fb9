"""Preparation beyond what ships: options together, and which passes are made for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    CustomAdvantage,
    GaeAdvantage,
    KLConfig,
    KLEstimator,
    KLPlacement,
    ReturnsAdvantage,
)
from rlscale.config.schema.correction_config import CorrectionConfig, Level, RejectionConfig, WeightKind
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import STALE
from rlscale.trainer.preparation import prepare
from tests.shipped import SHIPPED, shipped
from tests.unit.algo.ragged import ragged
from tests.unit.trainer.prepared import (
    MAX_RESPONSE_TOKENS,
    asked_of_models,
    collected,
    corrected,
    run,
)

OLD = ("old_logprobs",)
TIS, ICEPOP, MIS = WeightKind.tis, WeightKind.icepop, WeightKind.mis


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
