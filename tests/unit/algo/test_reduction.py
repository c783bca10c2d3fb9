from __future__ import annotations

import numpy as np
import pytest

from rlscale.algo.reduction import KINDS, token_weights
from tests.unit.algo.ragged import ragged

MASK = np.array([False, True, True, True, False, True, False, False, True, True])
ROWS = {
    "lengths": np.array([3, 2, 2, 1, 2]),
    "sample": np.array([0, 1, 0, 2, 3]),
    "step": np.array([0, 0, 0, 0, 1]),
    "max_response_tokens": 4,
}
"""Sample 0: rows 0 and 2, 2 + 1 trainable tokens; sample 1: one; sample 2: none; sample 3: two, alone in step 1."""


@pytest.mark.parametrize(
    ("kind", "of_sample"),
    [
        ("sample_mean", {0: 1 / 6, 1: 1 / 2, 3: 1 / 2}),
        ("sample_sum", {0: 1 / 2, 1: 1 / 2, 3: 1.0}),
        ("token_mean", {0: 1 / 4, 1: 1 / 4, 3: 1 / 2}),
        ("constant", {0: 1 / 8, 1: 1 / 8, 3: 1 / 4}),
    ],
)
def test_weights_by_hand(kind: str, of_sample: dict[int, float]) -> None:
    sample_of_token = np.repeat(ROWS["sample"], ROWS["lengths"])
    expected = [of_sample[s] if m else 0.0 for s, m in zip(sample_of_token.tolist(), MASK, strict=True)]
    np.testing.assert_allclose(token_weights(kind, MASK, **ROWS), expected, rtol=1e-15)


def reference_loss(kind: str, step_number: int, data, losses: np.ndarray, max_response_tokens: int) -> float:
    """The definition of each reduction, sample by sample."""
    per_sample = []
    for sample in range(len(data.rewards)):
        values = [
            losses[token]
            for row in np.flatnonzero((data.sample == sample) & (data.step == step_number))
            for token in range(data.offsets[row], data.offsets[row + 1])
            if data.mask[token]
        ]
        if values:
            per_sample.append(values)
    if not per_sample:
        return 0.0
    if kind == "sample_mean":
        return float(np.mean([np.mean(v) for v in per_sample]))
    if kind == "sample_sum":
        return float(np.mean([np.sum(v) for v in per_sample]))
    every = np.concatenate(per_sample)
    return float(every.mean() if kind == "token_mean" else every.sum() / (len(per_sample) * max_response_tokens))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_the_weighted_sum_of_each_step_is_the_reduction_of_its_samples(kind: str, seed: int) -> None:
    data = ragged(seed, steps=3)
    losses = np.random.default_rng(seed).normal(size=data.mask.shape)
    weights = token_weights(
        kind, data.mask, lengths=data.lengths, sample=data.sample, step=data.step, max_response_tokens=17
    )
    step_of_token = np.repeat(data.step, data.lengths)
    for step in range(3):
        loss = (weights * losses)[step_of_token == step].sum()
        assert loss == pytest.approx(reference_loss(kind, step, data, losses, 17), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_how_a_sample_is_cut_into_segments_changes_no_weight(kind: str, seed: int) -> None:
    data = ragged(seed, steps=2)
    weights = token_weights(
        kind, data.mask, lengths=data.lengths, sample=data.sample, step=data.step, max_response_tokens=17
    )
    # Every token a segment of its own, in random order.
    order = np.random.default_rng(seed).permutation(len(data.mask))
    of_single_tokens = token_weights(
        kind,
        data.mask[order],
        lengths=np.ones(len(order), dtype=np.int64),
        sample=data.sample[data.row_of_token[order]],
        step=data.step[data.row_of_token[order]],
        max_response_tokens=17,
    )
    np.testing.assert_array_equal(of_single_tokens, weights[order])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_dummies_and_samples_without_a_trainable_token_count_in_no_denominator(kind: str) -> None:
    dummies = {
        "lengths": np.append(ROWS["lengths"], [5, 1]),
        "sample": np.append(ROWS["sample"], [8, 9]),
        "step": np.append(ROWS["step"], [0, 1]),
        "max_response_tokens": 4,
    }
    padded = token_weights(kind, np.append(MASK, np.zeros(6, dtype=bool)), **dummies)
    np.testing.assert_array_equal(padded, np.append(token_weights(kind, MASK, **ROWS), np.zeros(6)))


@pytest.mark.parametrize(
    ("kind", "total"), [("sample_mean", 1.0), ("token_mean", 1.0), ("sample_sum", 2.0), ("constant", 0.5)]
)
def test_the_weights_of_a_step_add_up_by_hand(kind: str, total: float) -> None:
    # Step 0 has two samples with four trainable tokens in all: 4 / 2 of sample_sum, 4 / (2 * 4) of constant.
    step_of_token = np.repeat(ROWS["step"], ROWS["lengths"])
    assert token_weights(kind, MASK, **ROWS)[step_of_token == 0].sum() == pytest.approx(total, rel=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_with_nothing_trainable_has_no_weight(kind: str) -> None:
    weights = token_weights(kind, np.zeros(10, dtype=bool), **ROWS)
    assert (weights == 0.0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_has_no_weights(kind: str) -> None:
    none = np.zeros(0, dtype=np.int64)
    weights = token_weights(kind, none.astype(bool), lengths=none, sample=none, step=none, max_response_tokens=4)
    assert weights.shape == (0,)


def test_segments_of_one_sample_in_two_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="different steps"):
        token_weights("token_mean", MASK, **{**ROWS, "step": np.array([0, 0, 1, 0, 1])})


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_mean"):
        token_weights("median", MASK, **ROWS)
