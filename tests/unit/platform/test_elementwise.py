"""Operations with hand-written gradients against torch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform import elementwise
from rlscale.platform.elementwise import rms_norm, rotate, swiglu


def plain_swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def plain_rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


ANGLES = torch.linspace(0, 3, 6 * 4).view(6, 1, 4)
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]] = {
    "rms_norm": (
        lambda x, w: rms_norm(x, w, 1e-6),
        lambda x, w: F.rms_norm(x, w.shape, w, 1e-6),
        [torch.randn(6, 3, 8), torch.randn(8)],
    ),
    "swiglu": (swiglu, plain_swiglu, [torch.randn(6, 1, 16)]),
    "rms_norm, no tokens": (
        lambda x, w: rms_norm(x, w, 1e-6),
        lambda x, w: F.rms_norm(x, w.shape, w, 1e-6),
        [torch.randn(0, 1, 8), torch.randn(8)],
    ),
    "swiglu, no tokens": (swiglu, plain_swiglu, [torch.randn(0, 1, 16)]),
    "rotate, a part of each row": (
        lambda x: rotate(x[:, 1:3], ANGLES.cos(), ANGLES.sin()),
        lambda x: plain_rotate(x[:, 1:3], ANGLES.cos(), ANGLES.sin()),
        [torch.randn(6, 5, 8)],
    ),
    "rotate": (
        lambda x: rotate(x, ANGLES.cos(), ANGLES.sin()),
        lambda x: plain_rotate(x, ANGLES.cos(), ANGLES.sin()),
        [torch.randn(6, 3, 8)],
    ),
}


@pytest.mark.parametrize("tile", [2**18, 64, 1])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "_TILE", tile)  # all tokens at once, some, one after the other
    mine, theirs, inputs = CASES[name]
    inputs = [x.clone().requires_grad_() for x in inputs]
    got, expected = mine(*inputs), theirs(*inputs)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
    weight = torch.randn_like(got)
    for ours, other in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, other, atol=2e-6, rtol=1e-5)
