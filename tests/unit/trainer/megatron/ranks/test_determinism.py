"""What the libraries of a GPU are told, so that they repeat themselves."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.utils.deterministic

from rlscale.platform.device import Platform
from rlscale.trainer.megatron.ranks.determinism import ask_for_determinism

NAMES = ("CUBLAS_WORKSPACE_CONFIG", "NVTE_ALLOW_NONDETERMINISTIC_ALGO", "NCCL_ALGO")


def asked(platform: Platform) -> tuple[list[str | None], bool]:
    """The variables, and whether torch was asked, after asking for determinism."""
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    try:
        ask_for_determinism(platform)
        enabled = torch.are_deterministic_algorithms_enabled()
        # With warnings in the place of errors, torch's attention would take its other backward pass.
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert deterministic.fill_uninitialized_memory is not enabled
        return [os.environ.get(name) for name in NAMES], enabled
    finally:
        torch.use_deterministic_algorithms(False)
        deterministic.fill_uninitialized_memory = filled


def test_a_gpu_is_told_everything_and_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that the variable is as it was once the test is over
        monkeypatch.delenv(name)
    assert asked(Platform(torch.device("cpu"), "gloo")) == ([None, None, None], False)
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    assert asked(Platform(torch.device("cuda", 0), "nccl")) == ([":4096:8", "0", "Ring"], True)
