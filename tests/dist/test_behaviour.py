"""Old log-probs by the weights that sampled each token: exactly those, on every layout, and after a resume."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import behaviour_scenarios
import numpy as np
import pytest
from rank_pool import RankPool
from scenarios import whole_column
from training_data import ALGORITHMS, divide, make_batch, make_spec

from rlscale.config.schema.algo_config import OldLogprobs
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.data.batches.batch import Batch

KEPT, PRESENT = 2, 3
LAYOUTS: list[tuple[str, dict[str, Any], bool]] = [
    ("dense", {}, False),
    ("dense", {"pipeline": 2}, False),
    ("moe", {"expert": 2, "data": 2}, True),
]


def sampled_by_many(batch: Batch, spec: Any) -> Batch:
    """The batch with tokens of every version there was; of the second of two parts, of the present version alone."""
    mask, versions = batch.column("loss_mask"), np.arange(batch.tokens_total) % (PRESENT + 1)
    for part in divide(batch, spec.data_parallel)[1:]:
        for row in part.row_ids:
            versions[batch.offsets[row] : batch.offsets[row + 1]] = PRESENT
    return batch.with_column("versions", np.where(mask, versions, -1)).with_column("version", PRESENT)


@pytest.mark.parametrize(("model", "parallel", "overlaps"), LAYOUTS)
def test_every_token_gets_the_log_prob_that_its_own_version_gave_it(
    model: str, parallel: dict[str, Any], overlaps: bool, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    ddp = {"overlap_grad_reduce": True, "overlap_param_gather": True} if overlaps else {}
    spec = make_spec(
        models[model],
        parallel=parallel,
        algo=replace(ALGORITHMS["grpo"], old_logprobs=OldLogprobs.behaviour),
        optim=OptimConfig(lr=1e-2),
        trainer=TrainerConfig(distributed_optimizer=overlaps, ddp=ddp),
        kept_versions=KEPT,
    )
    ranks, folder = 2 if parallel else 1, str(tmp_path / "saved")
    iterations = [divide(make_batch(spec.algo, seed=seed), spec.data_parallel) for seed in range(PRESENT)]
    batch = sampled_by_many(make_batch(spec.algo, seed=PRESENT), spec)
    parts = divide(batch, spec.data_parallel)
    results = pool.run(behaviour_scenarios.train_and_look_back, spec, iterations, parts, folder, world_size=ranks)
    by_version = [
        whole_column(parts, batch, [result["by_version"][version] for result in results])
        for version in range(PRESENT + 1)
    ]
    mask, versions = batch.column("loss_mask"), batch.column("versions")
    for older, newer in pairwise(by_version):
        assert np.abs(older - newer)[mask].max() > 1e-3
    taken = np.maximum(versions, PRESENT - KEPT)  # the first version is no longer there: the oldest stands in
    expected = np.where(mask, np.choose(taken, by_version), np.float32(0))
    np.testing.assert_array_equal(whole_column(parts, batch, [result["behaviour"] for result in results]), expected)
    for result in results:
        for name, weight in result["before"].items():
            np.testing.assert_array_equal(result["after"][name], weight, err_msg=name)

    # In a resumed trainer, by itself: had the engine given the same numbers, there would be no difference to it.
    again = divide(batch.with_column("rollout_logprobs", expected), spec.data_parallel)
    for metrics in pool.run(behaviour_scenarios.resume_and_train, spec, again, folder, PRESENT, world_size=ranks):
        assert metrics["mismatch_abs_max"] == 0.0
        assert metrics["staleness_max"] == PRESENT
        assert metrics["ratio_max_first_step"] > 1.0
        missing = (versions[mask] < PRESENT - KEPT).mean()
        assert metrics["old_version_missing"] == pytest.approx(missing, rel=1e-12)
