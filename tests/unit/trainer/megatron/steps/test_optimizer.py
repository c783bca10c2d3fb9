"""What an optimizer keeps of its steps is there before the first one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.optimizer.cpu_offloading.hybrid_optimizer import HybridDeviceOptimizer
from torch import Tensor
from torch.nn import Parameter

from rlscale.trainer.megatron.steps.optimizer import _make_state


class CountsElsewhere:
    """Like Transformer Engine's Adam: no torch optimizer of Adam's kind, and no `step` beside a parameter's moments."""

    def __init__(self, parameter: Parameter) -> None:
        self.param_groups = [{"params": [parameter]}]
        self.state: dict[Tensor, dict[str, Tensor]] = {parameter: {}}


def make_moments(optimizer: Any, config: Any) -> None:
    """As Megatron does it before it loads a checkpoint."""
    for parameter in optimizer.param_groups[0]["params"]:
        optimizer.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
        optimizer.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)


def on_host(parameter: Parameter) -> HybridDeviceOptimizer:
    return HybridDeviceOptimizer(
        [{"params": [parameter]}],
        offload_fraction=1.0,
        cpu_optimizer_cls=torch.optim.AdamW,
        param_update_in_fp32=True,
        lr=1e-3,
    )


@pytest.mark.parametrize(
    ("build", "kept"),
    [
        (lambda parameter: torch.optim.AdamW([parameter]), {"step", "exp_avg", "exp_avg_sq"}),
        (CountsElsewhere, {"exp_avg", "exp_avg_sq"}),
        (on_host, {"step", "exp_avg", "exp_avg_sq", "master_param"}),
    ],
    ids=["torch", "counts elsewhere", "on the host"],
)
def test_state_is_there_before_the_first_step_and_leaves_parameters_alone(build: Any, kept: set[str]) -> None:
    parameter = Parameter(torch.full((3,), 2.0, dtype=torch.bfloat16))
    optimizer = build(parameter)
    chained = SimpleNamespace(optimizer=optimizer, init_state_fn=make_moments, config=None)
    _make_state(SimpleNamespace(chained_optimizers=[chained]))
    state = optimizer.state[parameter]
    assert state.keys() == kept
    assert not any(state[name].any() for name in ("exp_avg", "exp_avg_sq"))
    assert parameter.tolist() == [2.0, 2.0, 2.0]


def test_optimizer_of_a_rank_without_parameters_is_left_alone() -> None:
    _make_state(SimpleNamespace(chained_optimizers=[SimpleNamespace(optimizer=None)]))
