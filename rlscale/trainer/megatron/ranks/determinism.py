"""What asks a GPU to give the same bits for the same batches; on the CPU it does so anyway."""

from __future__ import annotations

import os

import torch
import torch.utils.deterministic

from rlscale.platform.device import Platform

_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS otherwise shares a workspace between streams
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",  # Transformer Engine's attention; Megatron refuses to start without it
    "NCCL_ALGO": "^NVLS",  # sums that the switch makes have no fixed order
}


def ask_for_determinism(platform: Platform) -> None:
    """Tell the libraries of this process, which read their settings at their first use. Nothing on the CPU.

    A variable that is set already stays as it is. An operation that has no deterministic version raises RuntimeError.
    """
    if not platform.is_cuda:
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # torch's attention has a deterministic backward pass, but takes it only where torch is to raise, not to warn.
    torch.use_deterministic_algorithms(True, warn_only=False)
    # Otherwise every new tensor is filled before it is written, for programs that read what they have not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a module's property
