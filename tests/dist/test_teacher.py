"""The teacher: frozen log-probs of a policy's own tokens, by weights in the policy's place or by a model of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import driven
import numpy as np
import pytest
from rank_pool import RankFailed, RankPool
from test_trainer import hf_logprobs
from tiny_models import make_model

OPD = driven.shipped("opd")
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("dense", "other_dense", {}),
    ("moe", "other_moe", {"expert": 2, "data": 2}),
    ("dense", "deep", {"tensor": 2, "sequence": True}),
    ("dense", "deep", {"pipeline": 2}),
    ("dense", "other_moe", {}),
    ("moe", "deep", {"expert": 2, "data": 2}),
    ("dense", "tied", {"context": 2}),
]


@pytest.mark.parametrize(("policy", "teacher", "parallel"), CASES)
def test_teachers_logprobs_are_those_of_transformers(
    policy: str, teacher: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path]
) -> None:
    spec = driven.spec_of(OPD, models, policy, parallel=parallel)
    spec, batch = replace(spec, teacher_path=str(models[teacher])), driven.segmented(OPD)
    names = ["old_logprobs", "teacher_logprobs", "old_logprobs"]
    result = pool.run(driven.columns, spec, batch, names, True, world_size=2 if parallel else 1)[0]
    before, taught, after = result["columns"]
    np.testing.assert_allclose(taught, hf_logprobs(models[teacher], batch, spec.temperature), atol=1e-5)
    np.testing.assert_array_equal(before, after)
    assert np.abs(before - taught).max() > 0.1
    assert result["awake"] == ["policy"]


def test_teacher_of_its_own_leaves_the_device_after_its_pass(pool: RankPool, models: dict[str, Path]) -> None:
    spec = replace(driven.spec_of(OPD, models), teacher_path=str(models["deep"]))
    batch = driven.segmented(OPD)
    (result,) = pool.run(driven.columns, spec, batch, ["teacher_logprobs"] * 2, True, world_size=1)
    np.testing.assert_array_equal(*result["columns"])
    assert result["awake"] == []


def test_distillation_brings_the_policy_closer_to_the_teacher(pool: RankPool, models: dict[str, Path]) -> None:
    spec = driven.spec_of(OPD, models)
    (result,) = pool.run(driven.train, spec, [driven.segmented(OPD)] * 4, world_size=1)
    (first, last) = (result["iterations"][number]["columns"] for number in (0, -1))
    mask = driven.segmented(OPD).column("loss_mask")
    worse = first["old_logprobs"] > first["teacher_logprobs"] + 1.0
    moved = (last["old_logprobs"] - first["old_logprobs"])[mask & worse]
    assert moved.mean() < -1e-3
    np.testing.assert_array_equal(first["teacher_logprobs"], last["teacher_logprobs"])


def test_teacher_with_a_smaller_vocabulary_is_refused(pool: RankPool, models: dict[str, Path], tmp_path: Path) -> None:
    small = make_model(tmp_path / "small", "dense", vocab_size=60)
    spec = replace(driven.spec_of(OPD, models), teacher_path=str(small))
    with pytest.raises(RankFailed, match=r"UserError: the teacher in .* has a vocabulary of 60, the policy one of 64"):
        pool.run(driven.train, spec, [], world_size=1)
