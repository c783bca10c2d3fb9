"""The plan against runs that others published: what fits, and how many parameters there are."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.config.schema.trainer_config import Recompute
from rlscale.plan.planned_run import USABLE
from rlscale.plan.rank_layout import RankLayout
from rlscale.plan.trainer_memory import RankMemory, Training, rank_memory, stages
from tests.unit.plan.published_models import RUNS, shape_of


def rank_of(run: dict[str, Any], *, adam_host: bool) -> RankMemory:
    """The rank that needs most."""
    tensor, pipeline, context, expert = run["layout"]
    stage = run["gpus"] // pipeline
    expert = min(expert, stage)
    layout = RankLayout(
        tensor, tensor > 1, pipeline, context=context, expert=expert, data=max(1, stage // (tensor * context))
    )
    training = Training(run["tokens"] * context, Recompute.full, 2, True, adam_host, entropy=True)
    shape = shape_of(run["model"])
    return max((rank_memory(shape, layout, training, stage) for stage in stages(layout)), key=lambda one: one.total)


def planned_to_fit(run: dict[str, Any], *, adam_host: bool) -> bool:
    return rank_of(run, adam_host=adam_host).total <= USABLE * run["gb"] * 1e9


@pytest.mark.parametrize("name", [name for name, sizes in RUNS["models"].items() if "billions" in sizes])
def test_parameters_are_those_of_the_published_model(name: str) -> None:
    assert round(shape_of(name).parameters / 1e9, 1) == RUNS["models"][name]["billions"]


def test_published_runs_fit_as_they_did() -> None:
    right = [run["row"] for run in RUNS["runs"] if planned_to_fit(run, adam_host=bool(run["adam_host"])) == run["fits"]]
    assert len(right) >= 15, right


def test_layouts_that_put_adam_on_the_host_needed_to() -> None:
    """The five largest of them, whose states alone are 90 GiB and more of 80 GB, or all of a 96 GB card's."""
    for row in (1, 2, 13, 15):
        run = RUNS["runs"][row - 1]
        assert not planned_to_fit(run, adam_host=False), row


@pytest.mark.parametrize(("row", "static"), [(1, 90.6), (2, 94.4), (3, 64.2), (8, 68.9), (15, 125.1), (16, 69.3)])
def test_states_of_a_rank_are_those_of_megatrons_own_rule(row: int, static: float) -> None:
    """GiB of weights, gradients and Adam on an average stage, with half of the tables on each end's."""
    run = RUNS["runs"][row - 1]
    rank = rank_of(run, adam_host=False)
    assert rank.weights + rank.gradients + rank.optimizer == pytest.approx(static * 2**30, rel=0.10)
