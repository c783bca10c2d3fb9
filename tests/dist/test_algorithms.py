"""Every shipped algorithm through the real trainer: two data-parallel ranks give what one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import driven
import numpy as np
import pytest
from rank_pool import RankFailed, RankPool
from tiny_models import SIZES

from rlscale.config.composition.locations import conf_dir
from rlscale.config.schema.algo_config import ReductionConfig, ReductionKind
from rlscale.config.schema.correction_config import CorrectionConfig, Level, MisAction, RejectionConfig, WeightKind

WORDS = 5
"""Of the engine's that score centering is told at each token."""
ALGORITHMS = sorted(file.stem for file in (conf_dir() / "algo").glob("*.yaml"))
TIMES = ("seconds", "per_s", "per_device", "memory_peak_gb", "microbatches")
"""Parts of the names of metrics that are not of the mathematics."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_data_parallel_ranks_give_what_one_gives(name: str, pool: RankPool, models: dict[str, Path]) -> None:
    algo = driven.shipped(name)
    temperature = 1.0 if name == "sft" else 0.8
    one = driven.spec_of(algo, models, temperature=temperature)
    two = driven.spec_of(algo, models, temperature=temperature, parallel={"data": 2})
    batches = [driven.segmented(algo, seed) for seed in range(2)]
    (expected,) = pool.run(driven.train, one, batches, world_size=1)
    for got in pool.run(driven.train, two, batches, world_size=2):
        assert_same(got, expected)
    steps = expected["iterations"][0]["metrics"]
    assert (steps["steps"], steps["skipped_in_a_row"]) == (4.0, 0.0)


CORRECTIONS = {
    # About half of the tokens and segments are past each bound: see the assertions.
    "tis and opsm": CorrectionConfig(weight=WeightKind.tis, upper=0.1, opsm_delta=2.2),
    "mis of sequences, normalised, rejection with veto, opsm": CorrectionConfig(
        weight=WeightKind.mis,
        level=Level.sequence,
        action=MisAction.clip,
        lower=1e-6,
        upper=1.0,
        normalise=True,
        rejection=RejectionConfig(level=Level.geometric, lower=0.08, upper=0.5, veto=0.017),
        opsm_delta=2.2,
    ),
}


@pytest.mark.parametrize("correction", CORRECTIONS.values(), ids=CORRECTIONS)
def test_corrections_are_the_same_on_two_ranks_as_on_one(
    correction: CorrectionConfig, pool: RankPool, models: dict[str, Path]
) -> None:
    algo = driven.shipped("grpo", correction=correction, epochs_per_iteration=1)
    batches = [driven.segmented(algo)]
    (expected,) = pool.run(driven.train, driven.spec_of(algo, models), batches, world_size=1)
    for got in pool.run(driven.train, driven.spec_of(algo, models, parallel={"data": 2}), batches, world_size=2):
        assert_same(got, expected)
    metrics = expected["iterations"][0]["metrics"]
    acted = ["correction_outside", "opsm_masked", *(["rejected_segments"] if correction.rejection.veto else [])]
    for name in acted:
        assert 0.1 < metrics[name] < 0.9, name


@pytest.mark.parametrize("parallel", [{"data": 2}, {"tensor": 2, "sequence": True}, {"context": 2}], ids=str)
def test_score_centering_is_the_same_in_every_layout_as_on_one_rank(
    parallel: dict[str, Any], pool: RankPool, models: dict[str, Path], centered: Any
) -> None:
    """Words of the engine's anywhere in the vocabulary, which tensor-parallel ranks share."""
    algo, batch, expected = centered
    for got in pool.run(driven.train, driven.spec_of(algo, models, parallel=parallel), [batch], world_size=2):
        assert_same(got, expected)
    metrics = expected["iterations"][0]["metrics"]
    assert 0.1 < metrics["centering_gap"] < 1
    assert 0.05 < metrics["centering_tail"] < 0.5
    assert 0.1 < metrics["correction_outside"] < 0.9


@pytest.fixture(scope="module")
def centered(pool: RankPool, models: dict[str, Path]) -> Any:
    """The algorithm, its batch, and what one rank makes of it."""
    correction = CorrectionConfig(weight=WeightKind.tis, upper=0.1, score_centering=WORDS)
    algo = driven.shipped("grpo", correction=correction, epochs_per_iteration=1)
    batch, draw = driven.segmented(algo), np.random.default_rng(0)
    total = batch.tokens_total
    words = np.argsort(draw.random((total, SIZES["vocab_size"])))[:, :WORDS]
    shares = draw.dirichlet(np.ones(WORDS + 1), total)[:, :WORDS]
    batch = batch.with_column("sampler_words", words).with_column("sampler_logprobs", np.log(shares))
    (expected,) = pool.run(driven.train, driven.spec_of(algo, models), [batch], world_size=1)
    return algo, batch, expected


@pytest.mark.parametrize("reduction", [ReductionKind.sample_sum, ReductionKind.token_mean, ReductionKind.constant])
def test_other_reductions_of_a_step_are_the_same_on_two_ranks_as_on_one(
    reduction: ReductionKind, pool: RankPool, models: dict[str, Path]
) -> None:
    """Every algorithm is tested with its own above."""
    algo = driven.shipped("grpo", reduction=ReductionConfig(kind=reduction), epochs_per_iteration=1)
    batches = [driven.segmented(algo)]
    (expected,) = pool.run(driven.train, driven.spec_of(algo, models), batches, world_size=1)
    for got in pool.run(driven.train, driven.spec_of(algo, models, parallel={"data": 2}), batches, world_size=2):
        assert_same(got, expected)


def assert_same(got: dict[str, Any], expected: dict[str, Any], rel: float = 1e-5) -> None:
    """Metrics and columns to `rel`, gradients to `rel` of their largest value, weights to 5e-6."""
    for ours, theirs in zip(got["iterations"], expected["iterations"], strict=True):
        assert set(ours["metrics"]) == set(theirs["metrics"])
        for name, value in theirs["metrics"].items():
            if not any(part in name for part in TIMES):
                assert ours["metrics"][name] == pytest.approx(value, rel=rel, abs=2e-6), name
        assert set(ours["columns"]) == set(theirs["columns"])
        for name, column in theirs["columns"].items():
            np.testing.assert_allclose(ours["columns"][name], column, rtol=rel, atol=1e-5, err_msg=name)
    assert set(got["gradients"]) == set(expected["gradients"])
    for name, gradient in expected["gradients"].items():
        assert np.abs(got["gradients"][name] - gradient).max() <= rel * np.abs(gradient).max() + 1e-8, name
    assert set(got["weights"]) == set(expected["weights"])
    for name, weight in expected["weights"].items():
        assert np.abs(got["weights"][name] - weight).max() <= 5e-6, name


def test_reference_is_kept_only_where_something_reads_it(pool: RankPool, models: dict[str, Path]) -> None:
    algo = driven.shipped("grpo")
    spec, batch = driven.spec_of(algo, models), driven.segmented(algo)
    with pytest.raises(RankFailed, match="has no model 'reference'"):
        pool.run(driven.columns, spec, batch, ["ref_logprobs"], False, world_size=1)
    with pytest.raises(RankFailed, match="trains no model 'critic'"):
        pool.run(driven.columns, spec, batch, ["values"], False, world_size=1)


def test_bypass_measures_the_mismatch_before_anything_was_trained(pool: RankPool, models: dict[str, Path]) -> None:
    algo = driven.shipped("grpo", correction=CorrectionConfig(bypass=True))
    spec, batch = driven.spec_of(algo, models), driven.segmented(algo)
    (first,) = pool.run(driven.columns, spec, batch, ["old_logprobs"], False, world_size=1)
    engine = np.where(batch.column("loss_mask"), first["columns"][0], 0.0)
    (result,) = pool.run(driven.train, spec, [batch.with_column("rollout_logprobs", engine)], world_size=1)
    metrics = result["iterations"][0]["metrics"]
    assert metrics["logprob_diff_max"] <= 1e-5
    assert metrics["ratio_max"] > 1.001  # the steps themselves did move the policy
