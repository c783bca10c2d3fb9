"""How ranks and engines share the cores: in turn when colocated, side by side when disaggregated."""

from __future__ import annotations

import os

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.derived.cpu_threads import engine_threads, trainer_threads

NULL = ["trainer.threads=null", "rollout.threads_per_engine=null"]


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ([], (1, 1)),
        (NULL, (8, 8)),
        ([*NULL, "parallel.data=2"], (4, 8)),
        ([*NULL, "rollout.engines=3"], (8, 2)),
        ([*NULL, "cluster.placement=disaggregated"], (4, 4)),
        ([*NULL, "cluster.placement=disaggregated", "rollout.engines=3"], (2, 2)),
        ([*NULL, "parallel.data=16"], (1, 8)),
        (["trainer.threads=3", "rollout.threads_per_engine=5"], (3, 5)),
        ([*NULL, "cluster=node8"], (1, 1)),
    ],
)
def test_each_phase_has_the_cores_that_it_need_not_share(
    given: list[str], threads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    config = compose(None, given)
    assert (trainer_threads(config), engine_threads(config)) == threads
