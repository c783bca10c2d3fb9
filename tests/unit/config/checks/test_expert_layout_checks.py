"""Sizes of the expert-parallel groups that do not fit, and the values that a line names instead: each of them works."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.layout import experts_fit
from rlscale.config.composition.compose import compose
from rlscale.config.derived.sizes import Sizes
from rlscale.config.hf_architecture import read_architecture
from tests.unit.config.mixture import MOE

Problems = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["parallel.expert=2"],
            "parallel.expert=2 x parallel.expert_tensor=1 does not divide the 1 trainer ranks of a pipeline stage; "
            "use parallel.expert=1, or parallel.data=2",
        ),
        (["parallel.expert=2", "parallel.data=3"], "use parallel.expert=1, or parallel.data=2 or 4"),
        (["parallel.expert=4", "parallel.context=2"], "use parallel.expert=1 or 2, or parallel.data=2"),
        (["parallel.expert=8"], "use parallel.expert=1, or parallel.data=8 with cluster.max_trainer_ranks=8"),
        (["parallel.expert_tensor=2"], "use parallel.expert_tensor=1, or parallel.data=2"),
        (
            ["parallel.expert=2", "parallel.expert_tensor=2", "parallel.data=2"],
            "use parallel.expert=1, or parallel.data=4",
        ),
        (["parallel.expert=3", "parallel.data=4"], "does not divide the 8 experts of four_heads; use 1, 2 or 4"),
        (
            ["parallel.expert=4", "parallel.expert_tensor=3", "parallel.data=4"],
            "does not divide moe_intermediate_size=64 of four_heads; use 1",
        ),
    ],
)
def test_a_product_that_does_not_divide_the_ranks_is_one_line_with_what_would(
    problems: Problems, overrides: list[str], line: str
) -> None:
    (found,) = problems(*MOE, *overrides)
    assert line in found


def test_two_sizes_that_divide_nothing_are_a_line_each_with_a_pair_that_works(problems: Problems) -> None:
    assert problems(*MOE, "parallel.data=4", "parallel.expert=3", "parallel.expert_tensor=3") == [
        "parallel.expert=3 does not divide the 8 experts of four_heads; use 1, 2 or 4 with parallel.expert_tensor=1",
        "parallel.expert_tensor=3 does not divide moe_intermediate_size=64 of four_heads; use 1, 2 or 4 with "
        "parallel.expert=1",
    ]


def named(line: str) -> Iterator[dict[str, int]]:
    """The values that a line proposes together, one proposal after the other, without `parallel.` before their keys."""
    key = line.partition("=")[0]
    for choice in line.partition("; use ")[2].split(", or "):
        values, _, more = choice.partition(" with ")
        name, _, numbers = values.rpartition("=")
        for number in re.findall(r"\d+", numbers):
            texts = [f"{name or key}={number}", *([more] if more.startswith("parallel.") else [])]
            yield {one.partition("=")[0].removeprefix("parallel."): int(one.partition("=")[2]) for one in texts}


def test_every_value_that_a_line_names_works(plain_recipe: str) -> None:
    config = compose(plain_recipe, [*MOE, "cluster.max_trainer_ranks=12"])

    def lines(sizes: dict[str, int]) -> list[str]:
        changed = replace(config, parallel=replace(config.parallel, **sizes))
        return list(experts_fit(CheckContext(changed, Sizes.of(changed), read_architecture(changed.model))))

    seen = 0
    for expert, inside, data, context in product((1, 2, 3, 4, 16), (1, 2, 3, 128), (1, 2, 3, 4), (1, 3)):
        given = {"expert": expert, "expert_tensor": inside, "data": data, "context": context}
        for line in lines(given):
            for values in named(line):
                seen += 1
                assert lines(given | values) == [], (line, values)
    assert seen > 200


def test_on_gpus_a_smaller_number_of_copies_is_named_and_a_larger_one_only_where_there_are_gpus(
    problems: Problems, hf: Path
) -> None:
    gpus = ("model=qwen3_30b", f"model.path={hf}/qwen3_30b", "cluster=node8")
    (line,) = problems(*gpus, "cluster.gpus_per_node=6", "rollout.engines=6", "parallel.expert=4")
    assert line.endswith("the 6 trainer ranks of a pipeline stage; use parallel.expert=1 or 2, or parallel.data=4")
    (line,) = problems(*gpus, "rollout.engines=8", "parallel.expert=16")
    assert line.endswith("the 8 trainer ranks of a pipeline stage; use parallel.expert=1, 2, 4 or 8")
