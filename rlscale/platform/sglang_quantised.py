"""Quantised weights in SGLang on the CPU: plain torch in the place of kernels that need AMX or a GPU.

Codes and scales stay as they were loaded, under the parameters that SGLang made for them, so that an update of weights
loads further ones; they are turned into numbers of the activations' type for the moment of a product. Activations
are quantised as on GPUs where an engine is told so (`quantise_activations`), and otherwise left as they are. The
numbers are those of the forms' definition, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform.fp8_activations import (
    Rounding,
    by_batch,
    by_group,
    by_power_of_two,
    by_token,
    expert_products,
)

_TYPES = [torch.float32, torch.bfloat16, torch.float16]
_quantises_activations = False


def quantise_activations() -> None:
    """From now on, in this process and those forked from it, engines of FP8 quantise what they multiply codes with."""
    global _quantises_activations
    _quantises_activations = True


def allow_narrow_groups(module: Any) -> None:
    """sglang.srt.configs.update_config: scales of 1 x 32 (MXFP8) ask experts for multiples of 32."""
    original = module.get_moe_padding_size

    def get_moe_padding_size(block: list[int] | None) -> int:
        return original([max(block), max(block)] if block is not None and len(block) == 2 else block)

    module.get_moe_padding_size = get_moe_padding_size


def fp8(module: Any) -> None:
    """sglang.srt.layers.quantization.fp8: FP8 by block and by tensor, and MXFP8."""
    module.Fp8Config.get_supported_act_dtypes = classmethod(lambda _: _TYPES)
    linear, experts = module.Fp8LinearMethod, module.Fp8MoEMethod
    linear.__init__ = _without_mx_kernels(linear.__init__)
    linear.apply = _linear(lambda self, layer: _fp8_weight(self, layer), lambda self: _rounding(self, by_token))
    experts.apply = _experts(
        lambda self, layer, name: lambda expert: _fp8_expert(self, layer, name, expert),
        lambda self: _rounding(self, by_batch),
    )
    for method in (linear, experts):
        method.process_weights_after_loading = _stay_as_loaded
    experts.create_moe_runner = _remember_runner


def compressed_tensors(module: Any) -> None:
    """sglang.srt.layers.quantization.compressed_tensors.compressed_tensors: schemes need no GPU, weights any type."""
    config = module.CompressedTensorsConfig
    config.get_supported_act_dtypes = classmethod(lambda _: _TYPES)
    config._check_scheme_supported = lambda self, capability, error=True: True


def packed_linear(module: Any) -> None:
    """sglang.srt.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16: packed whole numbers."""
    scheme = module.CompressedTensorsWNA16
    scheme.process_weights_after_loading = _stay_as_loaded
    scheme.apply_weights = _linear(
        lambda self, layer: _unpacked(layer.weight_packed, layer.weight_scale, self.pack_factor)
    )


def packed_experts(module: Any) -> None:
    """sglang.srt.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16_moe: the same, of experts."""
    scheme = module.CompressedTensorsWNA16MoE
    scheme.process_weights_after_loading = _stay_as_loaded
    scheme.create_moe_runner = _remember_runner

    def expert_of(self: Any, layer: Any, name: str) -> Callable[[int], Tensor]:
        codes, scales = getattr(layer, f"{name}_packed"), getattr(layer, f"{name}_scale")
        return lambda expert: _unpacked(codes[expert].t(), scales[expert].t(), self.packed_factor)  # turned by SGLang

    scheme.apply_weights = _experts(expert_of)


def _stay_as_loaded(self: Any, layer: Any) -> None:
    """In the place of repacking for a kernel."""


def _remember_runner(self: Any, layer: Any, moe_runner_config: Any) -> None:
    """In the place of making a runner with kernels of a GPU."""
    self.moe_runner_config, self._owns_moe_runner = moe_runner_config, False


def _without_mx_kernels(original: Callable[..., None]) -> Callable[..., None]:
    """A linear method of MXFP8 that looks for no kernel."""

    def init(self: Any, quant_config: Any) -> None:
        micro, quant_config.use_mxfp8 = getattr(quant_config, "use_mxfp8", False), False
        try:
            original(self, quant_config)
        finally:
            quant_config.use_mxfp8 = micro
        self.use_mxfp8 = micro

    return init


def _rounding(method: Any, of_tensor: Rounding) -> Rounding:
    """How a method of FP8 rounds activations; `of_tensor`: where weights have one scale for each tensor."""
    if method.use_mxfp8:
        return lambda x: by_power_of_two(x, method.weight_block_size[1])
    return (lambda x: by_group(x, method.weight_block_size[1])) if method.block_quant else of_tensor


def _linear(
    weight_of: Callable[[Any, Any], Tensor], rounding_of: Callable[[Any], Rounding] | None = None
) -> Callable[..., Tensor]:
    """`apply` of a linear layer whose weight [out, in] is made for it, float32."""

    def apply(self: Any, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = weight_of(self, layer)
        if not _quantises_activations or rounding_of is None:
            return F.linear(x, weight.to(x.dtype), bias)
        product = F.linear(rounding_of(self)(x), weight).to(x.dtype)
        return product if bias is None else product + bias

    return apply


@dataclass(frozen=True)
class _Experts:
    """The weights of a layer's experts, made one by one where a token is sent there."""

    expert: Callable[[int], Tensor]
    dtype: torch.dtype

    def __getitem__(self, expert: int) -> Tensor:
        return self.expert(expert).to(self.dtype)


def _experts(
    weights_of: Callable[[Any, Any, str], Callable[[int], Tensor]],
    rounding_of: Callable[[Any], Rounding] | None = None,
) -> Any:
    """`apply` of a layer of experts: by SGLang's own computation in torch, or with activations quantised by ours."""

    def apply(self: Any, layer: Any, dispatch_output: Any) -> Any:
        from sglang.srt.layers.moe.fused_moe_native import moe_forward_native
        from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

        x, topk, config = dispatch_output.hidden_states, dispatch_output.topk_output, self.moe_runner_config
        first, second = (weights_of(self, layer, name) for name in ("w13_weight", "w2_weight"))
        if not _quantises_activations or rounding_of is None:
            made = SimpleNamespace(
                num_experts=layer.num_local_experts,
                w13_weight=_Experts(first, x.dtype),
                w2_weight=_Experts(second, x.dtype),
                moe_runner_config=config,
            )
            return StandardCombineInput(hidden_states=moe_forward_native(made, x, topk, config))
        if config.activation != "silu" or config.gemm1_alpha is not None or config.apply_router_weight_on_input:
            raise NotImplementedError("experts whose activations are quantised: plain silu, weighted at the end")
        shares, chosen, _ = topk
        return StandardCombineInput(hidden_states=expert_products(x, chosen, shares, first, second, rounding_of(self)))

    return apply


def _fp8_weight(method: Any, layer: Any) -> Tensor:
    """The weight of a linear layer, several projections one above the other; by tensor, each has a scale of its own."""
    if method.block_quant:
        return _scaled(layer.weight, layer.weight_scale_inv, method.weight_block_size)
    widths = torch.tensor(layer.logical_widths)
    return layer.weight.float() * layer.weight_scale.repeat_interleave(widths).unsqueeze(1)


def _fp8_expert(method: Any, layer: Any, name: str, expert: int) -> Tensor:
    """A weight of one expert; by tensor, gate and up have a scale each, and lie one above the other."""
    codes = getattr(layer, name)[expert]
    if method.block_quant:
        return _scaled(codes, getattr(layer, f"{name}_scale_inv")[expert], method.weight_block_size)
    scales = getattr(layer, f"{name}_scale")[expert].reshape(-1)
    return codes.float() * scales.repeat_interleave(len(codes) // len(scales)).unsqueeze(1)


def _scaled(codes: Tensor, scales: Tensor, block: list[int]) -> Tensor:
    """Codes times the scale of their block; a scale without sign is an exponent of two, 127 added."""
    if scales.dtype is torch.uint8:
        scales = torch.ldexp(torch.ones_like(scales, dtype=torch.float32), scales.int() - 127)
    rows, columns = codes.shape
    spread = scales.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return codes.float() * spread


def _unpacked(codes: Tensor, scales: Tensor, per_word: int) -> Tensor:
    """Packed codes [out, in / per_word] times the scale of their group [out, groups]: the weight [out, in], float32."""
    bits = 32 // per_word
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    whole = ((codes.unsqueeze(-1) >> shifts) & (2**bits - 1)).flatten(-2).sub_(2 ** (bits - 1)).float()
    return (whole.unflatten(1, (scales.shape[1], -1)) * scales.float().unsqueeze(-1)).flatten(1)


_QUANTIZATION = "sglang.srt.layers.quantization."
_COMPRESSED = f"{_QUANTIZATION}compressed_tensors."

ADAPTATIONS: dict[str, Callable[[Any], None]] = {
    "sglang.srt.configs.update_config": allow_narrow_groups,
    f"{_QUANTIZATION}fp8": fp8,
    f"{_COMPRESSED}compressed_tensors": compressed_tensors,
    f"{_COMPRESSED}schemes.compressed_tensors_wNa16": packed_linear,
    f"{_COMPRESSED}schemes.compressed_tensors_wNa16_moe": packed_experts,
}
"""Module -> what is changed in it right after its import."""
