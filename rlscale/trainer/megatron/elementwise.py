"""Norm, rotary positions and gated activation, each as one operation with its gradient written out.

Put together from torch's operations they make a dozen passes over memory and as many temporaries each, which in a small
model on the CPU is as much time as the matrix products. On CUDA, without Transformer Engine, the norm is torch's own
kernel; rotary positions and activation are what stands here, several kernels each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _RMSNorm(torch.autograd.Function):
    """y = x r w with r = (mean(x^2) + eps)^-1/2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return torch.mul(x, scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        product = gradient * x
        # dL/dw = sum over tokens of g x r; dL/dx = r (g w - x r^2 mean(g w x))
        for_weight = torch.mv(product.view(-1, x.shape[-1]).t(), scale.reshape(-1))
        inner = torch.mv(product.view(-1, x.shape[-1]), weight).view_as(scale).mul_(scale.square()).div_(x.shape[-1])
        for_x = (gradient * weight).addcmul_(x, inner, value=-1).mul_(scale)
        return for_x, for_weight, None


class _Rotate(torch.autograd.Function):
    """Rotation of the pairs (first half, second half) by an angle; the gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turn(gradient, cosine, sine, -1), None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, sign: int) -> Tensor:
    turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = x.chunk(2, dim=-1)
    turned_first, turned_second = turned.chunk(2, dim=-1)
    torch.mul(first, cosine, out=turned_first).addcmul_(second, sine, value=-sign)
    torch.mul(second, cosine, out=turned_second).addcmul_(first, sine, value=sign)
    return turned


class _SwiGLU(torch.autograd.Function):
    """silu(first half) * second half."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        result = torch.empty_like(x)
        for_gate, for_up = result.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=for_gate)
        torch.ops.aten.silu.out(gate, out=for_up).mul_(gradient)
        return result


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension: [..., n], [n] -> [..., n]."""
    if x.is_cuda or x.dtype is not torch.float32:
        return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)
    normed: Tensor = _RMSNorm.apply(x, weight, eps)
    return normed


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions, halves rotated (as in GPT-NeoX): [tokens, heads, d], angles [tokens, 1, d / 2]."""
    rotated: Tensor = _Rotate.apply(x, cosine, sine)
    return rotated


def swiglu(x: Tensor) -> Tensor:
    """silu(a) * b for the halves a and b of the last dimension: [..., 2 n] -> [..., n]."""
    activated: Tensor = _SwiGLU.apply(x)
    return activated
