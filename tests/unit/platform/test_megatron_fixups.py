"""Megatron-core as it is on CUDA without Transformer Engine: not rewritten, and mended where it needs that."""

from __future__ import annotations

import sys

import pytest
import torch

from rlscale.platform import megatron_fixups
from rlscale.platform.adapting import AdaptingFinder
from rlscale.platform.device import Platform
from tests.unit.forked import printed_without

SCRIPT = """
import sys
sys.modules["wandb"] = None  # as if not installed: Megatron tries to import it, which takes longer than all of Megatron
from types import SimpleNamespace
import torch
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer.moe.moe_utils import router_gating_linear


def route():
    x, weight = torch.randn(5, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    results = []
    for logits in (router_gating_linear(x, weight, None, torch.float32), x @ weight.t()):
        results.append((logits, *torch.autograd.grad(logits.square().sum(), (x, weight))))
    return [torch.allclose(*pair) for pair in zip(*results)]


def resume():
    own = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    adam, shared = torch.optim.AdamW(own), torch.tensor(7.0)
    for parameter in own:
        adam.state[parameter] = {"step": shared, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    resumed = DistributedOptimizer.__new__(DistributedOptimizer)
    resumed.optimizer, resumed.model_param_group_index_map = adam, {"a": (0, 0), "b": (0, 1)}
    resumed.config = SimpleNamespace(use_precision_aware_optimizer_no_fp8_or_ds_fp8=False)
    with torch.no_grad():
        for name in ("a", "b"):
            tensors = {key: torch.ones(2) for key in ("param", "exp_avg", "exp_avg_sq")}  # as a checkpoint gives them
            resumed._set_main_param_and_optimizer_states(name, tensors)
    for parameter in own:
        parameter.grad = torch.ones(2)
    adam.step()
    return [float(adam.state[parameter]["step"]) for parameter in own]


for do in (route, resume):
    try:
        print(do())
    except (NameError, KeyError) as error:
        print(type(error).__name__, error)
"""
"""Whether the router's logits and gradients are torch's; Adam's counts after a checkpoint's 7 steps and one more."""


MENDED = """
import torch
from rlscale.platform.device import Platform
Platform(torch.device("cuda", 0), "nccl").install_megatron()
"""
"""What is done in a process on a GPU before Megatron-core is imported."""

AS_ON_CUDA = ("megatron", "rlscale.platform")
"""What such a process has not imported: Megatron-core as it is on this machine, and what rewrote it."""


def test_without_transformer_engine_the_router_computes_and_the_distributed_optimizer_resumes() -> None:
    said = printed_without(AS_ON_CUDA, MENDED + SCRIPT)
    assert said.splitlines() == ["[True, True, True]", "[8.0, 8.0]"]


def test_megatron_still_needs_to_be_mended_for_that() -> None:
    said = printed_without(AS_ON_CUDA, SCRIPT)
    assert said.splitlines() == ["NameError name 'te_general_gemm' is not defined", "KeyError 'step'"]


def test_it_must_come_before_megatron_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(megatron_fixups.ON_EVERY_DEVICE))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, sys)
        with pytest.raises(RuntimeError, match=f"too late: {name}"):
            megatron_fixups.install()
    for early in megatron_fixups.ON_EVERY_DEVICE:
        monkeypatch.delitem(sys.modules, early, raising=False)
    for _ in range(2):
        Platform(torch.device("cuda", 0), "nccl").install_megatron()
    assert sys.meta_path.count(AdaptingFinder(megatron_fixups.ON_EVERY_DEVICE)) == 1
