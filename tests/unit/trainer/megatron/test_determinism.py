"""What the libraries of a GPU are told, so that they repeat themselves."""

from __future__ import annotations

import os

import pytest
import torch

from rlscale.platform.device import Platform
from rlscale.trainer.megatron.determinism import ask_for_determinism

NAMES = ("CUBLAS_WORKSPACE_CONFIG", "NVTE_ALLOW_NONDETERMINISTIC_ALGO", "NCCL_ALGO")


def asked(platform: Platform) -> tuple[list[str | None], bool]:
    """The variables, and whether torch was asked, after asking for determinism."""
    try:
        ask_for_determinism(platform)
        return [os.environ.get(name) for name in NAMES], torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gpu_is_told_everything_and_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that the variable is as it was once the test is over
        monkeypatch.delenv(name)
    assert asked(Platform(torch.device("cpu"), "gloo")) == ([None, None, None], False)
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    assert asked(Platform(torch.device("cuda", 0), "nccl")) == ([":4096:8", "0", "Ring"], True)
