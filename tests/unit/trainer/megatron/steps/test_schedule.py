"""The learning rate of every step, worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from rlscale.config.schema.optim_config import OptimConfig, Schedule
from rlscale.trainer.megatron.steps.schedule import build_schedule


def schedule_of(optim: OptimConfig, total: int) -> tuple[OptimizerParamScheduler, torch.optim.Adam]:
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    return build_schedule(adam, optim, total), adam


def rates(optim: OptimConfig, total: int, steps: int | None = None) -> list[float]:
    """What the parameters are trained with in each step."""
    schedule, adam = schedule_of(optim, total)
    found = []
    for _ in range(steps or total):
        schedule.step(1)
        found.append(float(adam.param_groups[0]["lr"]))
    return found


@pytest.mark.parametrize(
    ("keys", "total", "expected"),
    [
        ({}, 3, [1, 1, 1]),
        ({"warmup_steps": 2}, 4, [1 / 2, 1, 1, 1]),
        ({"schedule": Schedule.linear}, 4, [1, 3 / 4, 2 / 4, 1 / 4]),
        ({"schedule": Schedule.cosine}, 4, [1, (1 + math.sqrt(1 / 2)) / 2, 1 / 2, (1 - math.sqrt(1 / 2)) / 2]),
        ({"schedule": Schedule.linear, "warmup_steps": 2}, 4, [1 / 2, 1, 2 / 3, 1 / 3]),
        ({"schedule": Schedule.cosine, "warmup_steps": 2}, 4, [1 / 2, 1, 3 / 4, 1 / 4]),  # cos(π/3) is 1/2
        ({"schedule": Schedule.linear, "warmup_steps": 1}, 4, [1, 3 / 4, 2 / 4, 1 / 4]),
        ({"schedule": Schedule.linear, "decay_steps": 2, "min_lr": 1e-4}, 4, [1, 0.55, 0.1, 0.1]),
        ({"schedule": Schedule.linear, "decay_steps": 8}, 4, [1, 7 / 8, 6 / 8, 5 / 8]),
        ({"schedule": Schedule.linear}, 1, [1]),
        ({"schedule": Schedule.cosine, "warmup_steps": 10}, 1, [1 / 10]),
    ],
)
def test_the_schedule_reaches_its_end_after_the_last_step(
    keys: dict[str, object], total: int, expected: list[float]
) -> None:
    optim = OptimConfig(lr=1e-3, **keys)  # type: ignore[arg-type]  # values of several types by name
    assert rates(optim, total) == pytest.approx([1e-3 * rate for rate in expected])


@pytest.mark.parametrize("shape", Schedule)
def test_no_step_of_a_run_has_learning_rate_0(shape: Schedule) -> None:
    for warmup, total in itertools.product(range(9), range(1, 9)):
        found = rates(OptimConfig(lr=1e-3, schedule=shape, warmup_steps=warmup), total)
        assert min(found) > 0, (warmup, total)
        assert max(found) == pytest.approx(1e-3 * min(1, total / max(warmup, 1))), (warmup, total)


def test_a_resumed_run_goes_on_where_its_schedule_was() -> None:
    optim = OptimConfig(lr=1e-3, schedule=Schedule.cosine, warmup_steps=2)
    before, _ = schedule_of(optim, 6)
    before.step(1)
    before.step(1)
    before.step(1)
    after, adam = schedule_of(optim, 6)
    after.load_state_dict(before.state_dict())
    again = []
    for _ in range(3):
        after.step(1)
        again.append(adam.param_groups[0]["lr"])
    assert again == pytest.approx(rates(optim, 6)[3:])
