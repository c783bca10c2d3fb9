"""The plan's memory of a rank, held to what real ranks take."""

from __future__ import annotations

from pathlib import Path

import pytest
from planned_memory import Case, measured_and_planned
from rank_pool import RankPool

from rlscale.config.schema.model_config import DType

CASES = (
    Case("bfloat16", dtype=DType.bfloat16, tokens=1024, microbatches=1),
    Case("CP 2", parallel={"context": 2}, tokens=1024, microbatches=1),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step_takes_what_is_planned(case: Case, pool: RankPool, tmp_path: Path) -> None:
    taken, planned = measured_and_planned(case, tmp_path, pool)
    assert planned.held == pytest.approx(taken.held, rel=0.01)
    assert planned.most == pytest.approx(taken.most, rel=0.10)
