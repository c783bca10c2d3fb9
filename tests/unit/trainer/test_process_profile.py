"""What a rank writes about an iteration that is profiled."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.trainer.process_profile import ProcessProfile


def test_a_trace_has_what_was_computed_between_beginning_and_end(tmp_path: Path) -> None:
    profile = ProcessProfile()
    torch.linalg.svd(torch.eye(4))
    profile.write(tmp_path / "profile", "iteration_000003.rank-0")
    with gzip.open(tmp_path / "profile" / "iteration_000003.rank-0.trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert "aten::linalg_svd" in names


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run.iterations=2", "profile.iterations=[2,3]"], "iterations are 1 to 2 (run.iterations); leave 3 out"),
        (["profile.iterations=[0]"], "leave 0 out"),
        (
            ["profile.iterations=[1]", "run.generate_only=true", "rollout.store=all"],
            "nothing is trained with run.generate_only=true; leave it out",
        ),
    ],
)
def test_iterations_that_are_not_trained_cannot_be_profiled(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as found:
        check(compose(None, words))
    assert line in str(found.value)
