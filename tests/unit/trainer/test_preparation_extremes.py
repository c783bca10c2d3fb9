"""What preparation makes of log-probs that are far apart or no numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import KLEstimator
from rlscale.config.schema.correction_config import CorrectionConfig, Level, WeightKind
from rlscale.data.batches.batch import Batch
from rlscale.trainer.preparation import prepare
from tests.shipped import shipped
from tests.unit.algo.ragged import ragged
from tests.unit.trainer.prepared import MAX_RESPONSE_TOKENS, collected


def two_segments() -> Batch:
    """Segments of four and two tokens, one masked, in which all models say the same."""
    batch = Batch(np.array([0, 4, 6]))
    columns = {"loss_mask": [True, False, True, True, True, True], "sample": [0, 1], "step": [0, 0], "group": [0, 0]}
    columns |= {"reward": [1.0, 0.0], "versions": [0] * 6}
    for name in ("rollout_logprobs", "old_logprobs", "ref_logprobs", "teacher_logprobs"):
        columns[name] = [-1.0] * 6
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    return batch


def test_a_token_whose_kl_term_was_clamped_is_counted() -> None:
    """k3 has the exponent -d = 30 at one trainable token, and at a masked one."""
    config = shipped("reinforce_pp")
    config = replace(config, kl=replace(config.kl, estimator=KLEstimator.k3))
    batch = two_segments()
    _, metrics = prepare(batch, config, max_response_tokens=8)
    assert metrics["clamped_tokens_before"] == 0.0
    far = batch.with_column("old_logprobs", [-1.0, -31.0, -31.0, -1.0, -1.0, -1.0])
    made, metrics = prepare(far, config, max_response_tokens=8)
    assert metrics["clamped_tokens_before"] == 1.0
    assert np.isfinite(made.column("advantages")).all()
    _, metrics = prepare(far, shipped("reinforce_pp"), max_response_tokens=8)
    assert metrics["clamped_tokens_before"] == 0.0  # k1 has no exponent


def test_tokens_of_a_segment_whose_weight_was_clamped_are_counted() -> None:
    """8 nats per token are 24 over the three trainable tokens of one segment and 16 over the two of the other."""
    weights = CorrectionConfig(weight=WeightKind.mis, level=Level.sequence)
    far = two_segments().with_column("rollout_logprobs", [-9.0] * 6)
    made, metrics = prepare(far, replace(shipped("grpo"), correction=weights), max_response_tokens=8)
    assert metrics["clamped_tokens_before"] == 3.0
    assert metrics["correction_outside"] == 1.0
    np.testing.assert_array_equal(made.column("correction")[[0, 2, 3, 4, 5]], 2.0)
    kl = replace(shipped("reinforce_pp").kl, estimator=KLEstimator.k3)
    both = replace(shipped("reinforce_pp"), kl=kl, correction=weights)
    far = far.with_column("ref_logprobs", [29.0, -1.0, -1.0, -1.0, 29.0, -1.0])
    _, metrics = prepare(far, both, max_response_tokens=8)
    assert metrics["clamped_tokens_before"] == 4.0  # the token with both counts once


COLUMNS = {
    "old_logprobs": ("grpo", "the policy"),
    "ref_logprobs": ("reinforce_pp", "the reference"),
    "teacher_logprobs": ("opd", "the teacher"),
    "values": ("ppo", "the critic"),
    "rollout_logprobs": ("grpo", "the engines"),
}


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_with_numbers_that_are_not_finite_is_named(column: str, bad: float) -> None:
    name, model = COLUMNS[column]
    corrections = CorrectionConfig(weight=WeightKind.mis, level=Level.sequence)
    batch = collected(ragged(3))
    values, mask = batch.column(column).copy(), batch.column("loss_mask")
    values[np.flatnonzero(mask)[:3]] = bad
    message = rf"^{column}: 3 of {mask.sum()} trainable tokens have a value by {model} that is not finite"
    for config in (shipped(name), replace(shipped(name), correction=corrections)):
        with pytest.raises(UserError, match=message):
            prepare(batch.with_column(column, values), config, max_response_tokens=MAX_RESPONSE_TOKENS)


def test_what_stands_where_nobody_reads_may_be_anything() -> None:
    batch = collected(ragged(3))
    mask, versions = batch.column("loss_mask"), batch.column("versions").copy()
    versions[np.flatnonzero(mask)[0]] = -1  # a token that no engine generated
    changed = batch.with_column("versions", versions)
    for column in COLUMNS:
        values = np.where(mask, batch.column(column), np.nan)
        values[(versions < 0) & (column == "rollout_logprobs")] = np.nan
        changed = changed.with_column(column, values)
    kept = batch.with_column("versions", versions)
    config = replace(shipped("ppo"), correction=CorrectionConfig(weight=WeightKind.mis, level=Level.sequence))
    made, metrics = prepare(changed, config, max_response_tokens=MAX_RESPONSE_TOKENS)
    wanted, expected = prepare(kept, config, max_response_tokens=MAX_RESPONSE_TOKENS)
    assert metrics == expected
    for name in ("advantages", "returns", "loss_weight", "value_weight", "correction"):
        np.testing.assert_array_equal(made.column(name)[mask], wanted.column(name)[mask])
