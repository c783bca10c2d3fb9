"""The head of a reward model has the bias of its folder, and none where that has none."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path

import torch

from rlscale.platform import sglang_cpu, sglang_reward_heads


def test_a_bias_that_no_folder_brings_is_zero() -> None:
    class Model(torch.nn.Module):
        def __init__(self, width: int, bias: bool = True) -> None:
            super().__init__()
            self.score = torch.nn.Linear(width, 1, bias=bias)

    sglang_reward_heads.begin_at_zero(types.SimpleNamespace(EntryClass=[Model]))
    model = Model(8)
    assert torch.equal(model.score.bias, torch.zeros(1))
    assert model.score.weight.abs().min() > 0
    assert Model(8, bias=False).score.bias is None


def test_the_modules_are_there_and_adapted_on_the_cpu_too() -> None:
    for name in sglang_reward_heads.ADAPTATIONS:
        assert name in sglang_cpu.ADAPTATIONS
        package = Path(importlib.util.find_spec("sglang").origin).parent
        code = package.joinpath(*name.split(".")[1:]).with_suffix(".py").read_text()
        assert "self.score = nn.Linear(config.hidden_size, config.num_labels)\n" in code
