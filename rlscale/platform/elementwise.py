"""Norm, rotary positions and gated activation, each as one operation with its gradient written out.

Put together from torch's operations they make a dozen passes over memory and as many temporaries each, which in a small
model on the CPU is as much time as the matrix products. On CUDA, without Transformer Engine, the norm is torch's own
kernel; rotary positions and activation are what stands here, several kernels each.

On the CPU norm and activation go through a tile of tokens after the other, whose temporaries stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_TILE = 2**17
"""Elements of a tile on the CPU: 512 KiB in float32, so that a few of them fit in a core's own cache."""


class _RMSNorm(torch.autograd.Function):
    """y = x r w with r = (mean(x^2) + eps)^-1/2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        scale, normed = x.new_empty(*x.shape[:-1], 1), x.new_empty(x.shape)
        for tile in _tiles(x):
            norm = torch.linalg.vector_norm(x[tile], dim=-1, keepdim=True, out=scale[tile])
            norm.square_().div_(size).add_(eps).rsqrt_()
            torch.mul(x[tile], norm, out=normed[tile]).mul_(weight)
        ctx.save_for_backward(x, weight, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        size = x.shape[-1]
        for_x, for_weight = x.new_empty(x.shape), torch.zeros_like(weight)
        for tile in _tiles(x):
            g, r = gradient[tile], scale[tile]
            product = (g * x[tile]).view(-1, size)
            # dL/dw = sum over tokens of g x r; dL/dx = r (g w - x r^2 mean(g w x))
            for_weight.addmv_(product.t(), r.view(-1))
            inner = torch.mv(product, weight).view_as(r).mul_(r.square()).div_(size)
            torch.mul(g, weight, out=for_x[tile]).addcmul_(x[tile], inner, value=-1).mul_(r)
        return for_x, for_weight, None


class _Rotate(torch.autograd.Function):
    """Rotation of pairs by an angle; the gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor, neighbours: bool) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.neighbours = neighbours
        return _turn(x, cosine, sine, 1, neighbours)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turn(gradient, cosine, sine, -1, ctx.neighbours), None, None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, sign: int, neighbours: bool) -> Tensor:
    size = 2 * cosine.shape[-1]
    if size < x.shape[-1]:
        return torch.cat([_turn(x[..., :size], cosine, sine, sign, neighbours), x[..., size:]], dim=-1)
    axis, shape = (-1, (-1, 2)) if neighbours else (-2, (2, -1))
    pairs = x.unflatten(-1, shape)
    turned = pairs * cosine.unsqueeze(axis)
    turned.select(axis, 0).addcmul_(pairs.select(axis, 1), sine, value=-sign)
    turned.select(axis, 1).addcmul_(pairs.select(axis, 0), sine, value=sign)
    return turned.flatten(-2)


class _SwiGLU(torch.autograd.Function):
    """silu(first half) * second half."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        activated = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        for tile in _tiles(x):
            gate, up = x[tile].chunk(2, dim=-1)
            torch.ops.aten.silu.out(gate, out=activated[tile]).mul_(up)
        return activated

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result = x.new_empty(x.shape)
        for tile in _tiles(x):
            g = gradient[tile]
            gate, up = x[tile].chunk(2, dim=-1)
            for_gate, for_up = result[tile].chunk(2, dim=-1)
            torch.ops.aten.silu_backward.grad_input(g * up, gate, grad_input=for_gate)
            torch.ops.aten.silu.out(gate, out=for_up).mul_(g)
        return result


def _tiles(x: Tensor) -> Iterator[slice]:
    """Tokens (first dimension) that are worked on together: all of them on a GPU."""
    tokens = len(x)
    together = max(tokens if x.is_cuda else _TILE * tokens // max(x.numel(), 1), 1)
    for first in range(0, tokens, together):
        yield slice(first, first + together)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension: [..., n], [n] -> [..., n]."""
    if x.is_cuda or x.dtype is not torch.float32:
        return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)
    normed: Tensor = _RMSNorm.apply(x, weight, eps)
    return normed


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, neighbours: bool = False) -> Tensor:
    """Rotary positions of the first r numbers of each head: [tokens, heads, d], angles [tokens, 1, r / 2].

    A pair is a number of the first half with one of the second (as in GPT-NeoX), or two `neighbours` (as in GPT-J).
    """
    rotated: Tensor = _Rotate.apply(x, cosine, sine, neighbours)
    return rotated


def swiglu(x: Tensor) -> Tensor:
    """silu(a) * b for the halves a and b of the last dimension: [..., 2 n] -> [..., n]."""
    activated: Tensor = _SwiGLU.apply(x)
    return activated
