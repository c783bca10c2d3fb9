"""SGLang's adapters on the CPU: ordinary memory where they ask for pinned memory, which needs a CUDA driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class PageableTorch:
    """Torch as a module that pins what it makes sees it."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(torch, name)
        return _without_pinning(value) if name in ("tensor", "zeros") else value


def adapt(module: Any) -> None:
    """A module of SGLang's adapters: its tensors lie in ordinary memory."""
    module.torch = PageableTorch()
    tensors: Any = Tensor
    tensors.pin_memory = _as_it_is


def _as_it_is(tensor: Tensor, device: Any = None) -> Tensor:
    return tensor


def _without_pinning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, pin_memory: bool = False, **keywords: Any) -> Tensor:
        return make(*args, **keywords)

    return made


ADAPTATIONS: dict[str, Callable[[Any], None]] = {
    "sglang.srt.lora.backend.torch_backend": adapt,
    "sglang.srt.lora.layers": adapt,
}
"""Module -> what is changed in it right after its import."""
