"""Ranks come back on fewer machines where a run outlives the loss of one; elsewhere a wait for that is refused."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError

AFTER = "run.recover_smaller_after_s=9"
NODES = ("model=qwen3_8b", "cluster=multinode_disaggregated")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "parallel: tensor 1 x pipeline 1 x context 1 is one copy of the model, and "),
        (["parallel.data=2", "run.recover=none"], ": nothing is brought back with run.recover=none; leave it out"),
        (["run.in_process=true"], "in a run that is one process (run.in_process=true); leave it out"),
        ([*NODES, "cluster.placement=colocated", "cluster.rollout_nodes=0"], "use cluster.placement=disaggregated, or"),
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


def test_it_is_read_where_there_are_copies_to_lose() -> None:
    check(compose(None, ["parallel.data=2", AFTER]))
