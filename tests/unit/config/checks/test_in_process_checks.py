"""`run.in_process` is refused where one process is not enough."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.in_process import one_process_is_enough
from rlscale.config.composition.compose import compose
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["parallel.data=2"], "the trainer has 2 ranks, and one process can only be one of them; use parallel=single"),
        (["parallel.tensor=2"], "the trainer has 2 ranks"),
        (["cluster.ray_address=auto"], "no Ray is asked; leave cluster.ray_address out"),
        (["run.progress=live"], "run.progress=live would redraw what a debugger prints; use plain"),
    ],
)
def test_what_needs_more_than_a_process_is_refused_by_name(words: list[str], line: str) -> None:
    check(compose(None, words))
    with pytest.raises(ConfigError) as caught:
        check(compose(None, [*words, "run.in_process=true"]))
    assert [problem for problem in caught.value.problems if line in problem and "run.in_process=true: " in problem]
    assert len(caught.value.problems) == 1


def test_one_process_is_on_one_machine() -> None:
    config = compose(None, ["cluster.nodes=2", "run.in_process=true"])  # on GPUs; on the CPU nothing has two
    (line,) = one_process_is_enough(CheckContext(config, Sizes.of(config), None))
    assert line == "run.in_process=true: cluster.nodes=2, and nothing starts on another machine; use 1"


def test_several_ranks_of_a_run_that_trains_nothing_are_no_hindrance() -> None:
    words = ["run.generate_only=true", "rollout.store=all", "eval.enabled=false", "run.in_process=true"]
    check(compose(None, [*words, "warm_start=null", "parallel.data=2"]))
