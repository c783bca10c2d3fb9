"""The losses of what ships, by plain loops over tokens, and what they make of extreme, masked and empty batches."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlscale.trainer.objective import Objective
from rlscale.trainer.preparation import prepare
from tests.shipped import shipped
from tests.unit.algo.ragged import ragged
from tests.unit.trainer.algorithm_table import TABLE, Row
from tests.unit.trainer.prepared import (
    MAX_RESPONSE_TOKENS,
    collected,
    prepared,
    segment_sum_of,
    token_fields,
)


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
