"""Ranks come back on fewer machines where a run outlives the loss of one; elsewhere a wait for that is refused."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError

AFTER = "run.recover_smaller_after_s=9"
NODES = ("model=qwen3_8b", "cluster=multinode_disaggregated")
TWO_AND_TWO = (*NODES, "parallel.data=16")
NO_CHECKPOINTS = (*TWO_AND_TWO, "checkpoint.every=0", "checkpoint.in_memory=true")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "parallel: tensor 1 x pipeline 1 x context 1 is one copy of the model, and "),
        (["parallel.data=2", "run.recover=none"], ": nothing is brought back with run.recover=none; leave it out"),
        (["run.in_process=true"], "in a run that is one process (run.in_process=true); leave it out"),
        ([*NODES, "cluster.placement=colocated", "cluster.rollout_nodes=0"], "use cluster.placement=disaggregated, or"),
        (["parallel.data=2"], "all ranks are on the first machine of the run, and with that one the run ends; leave"),
        (
            [*NODES, "cluster.nodes=2", "cluster.rollout_nodes=1", "parallel.data=8"],
            "all ranks are on the first machine",
        ),
        ([*TWO_AND_TWO, "parallel.data=8"], "all ranks are on the first machine of the run, "),
        (
            [*NO_CHECKPOINTS, "trainer.distributed_optimizer=true"],
            "fewer ranks have nothing to begin with, as no check",
        ),
    ],
)
def test_a_wait_that_leads_nowhere_is_refused_by_name(words: list[str], line: str) -> None:
    def problems(*given: str) -> list[str]:
        try:
            check(compose(None, [*words, *given]))
        except ConfigError as error:
            return error.problems
        return []

    found = set(problems(AFTER)) - set(problems())  # the run's, and that of a stage which takes the key from it
    assert [one for one in found if one.startswith(AFTER) and line in one]


@pytest.mark.parametrize(
    "more",
    [
        (),
        NO_CHECKPOINTS[len(TWO_AND_TWO) :],
        ("checkpoint.every=0", "checkpoint.every_s=60", "trainer.distributed_optimizer=true"),
    ],
)
def test_it_is_read_where_there_are_machines_with_copies_to_lose(more: tuple[str, ...]) -> None:
    check(compose(None, [*TWO_AND_TWO, *more, AFTER]))
