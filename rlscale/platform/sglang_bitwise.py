"""SGLang on the CPU computing with the operations of the trainer, see `batch_invariant` and `elementwise`.

For an engine whose log-probs must be the trainer's bit for bit (`run.bitwise`): its linears, experts, norms, rotary
positions, activations, attention and log-probs are replaced, nothing of its scheduling, caching or sampling. Experts are
computed as Megatron does: the weight of a choice goes onto the activation, the sum goes in the experts' order.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlscale.platform import batch_invariant, sglang_attention
from rlscale.platform.elementwise import rms_norm, rotate, swiglu


def adapt() -> None:
    """Change SGLang in this process, whose modules are imported already or are now."""
    sglang_attention.attend = batch_invariant.attention
    for name, change in ADAPTATIONS.items():
        change(importlib.import_module(name))


def linears_and_experts(module: Any) -> None:
    """sglang.srt.layers.quantization.unquant: products by tiles."""

    def apply(self: Any, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return batch_invariant.linear(x, layer.weight, bias)

    def experts(self: Any, layer: Any, dispatch_output: Any) -> Any:
        from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

        x, (_, chosen, logits) = dispatch_output.hidden_states, dispatch_output.topk_output
        chosen = chosen.long()
        weights = torch.softmax(logits.gather(1, chosen), -1, dtype=torch.float32).to(x.dtype)
        output = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            rows, place = (chosen == expert).nonzero(as_tuple=True)
            hidden = swiglu(batch_invariant.product(x[rows], layer.w13_weight[expert])) * weights[rows, place, None]
            output.index_add_(0, rows, batch_invariant.product(hidden, layer.w2_weight[expert]))
        return StandardCombineInput(hidden_states=output)

    module.UnquantizedLinearMethod.apply = apply
    module.UnquantizedFusedMoEMethod.forward_cpu = module.UnquantizedFusedMoEMethod.forward_native = experts


def norms(module: Any) -> None:
    """sglang.srt.layers.layernorm: the trainer's norm, behind a sum with what went around the layer."""

    def forward(self: Any, x: Tensor, residual: Tensor | None = None, *unused: Any, **options: Any) -> Any:
        if residual is None:
            return rms_norm(x.contiguous(), self.weight.data, self.variance_epsilon)
        x = residual + x
        return rms_norm(x, self.weight.data, self.variance_epsilon), x

    module.RMSNorm.forward_native = module.RMSNorm.forward_cpu = forward


def activations(module: Any) -> None:
    """sglang.srt.layers.activation: the trainer's gated activation."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return swiglu(x)

    module.SiluAndMul.forward_native = module.SiluAndMul.forward_cpu = forward


def rotary(module: Any) -> None:
    """sglang.srt.layers.rotary_embedding.base: the trainer's rotary positions."""

    def forward(self: Any, positions: Tensor, query: Tensor, key: Tensor, *unused: Any, **options: Any) -> Any:
        angles = self.cos_sin_cache[positions].float().chunk(2, -1)
        cosine, sine = (x[:, None].to(query.dtype) for x in angles)

        def turned(x: Tensor) -> Tensor:
            heads = x.reshape(len(x), -1, self.head_size)
            return rotate(heads, cosine, sine, neighbours=not self.is_neox_style).reshape(x.shape)

        return turned(query), turned(key)

    module.RotaryEmbedding.forward_native = module.RotaryEmbedding.forward_cpu = forward


def head(module: Any) -> None:
    """sglang.srt.layers.logits_processor: logits by tiles of tokens and blocks of words."""

    def compute(self: Any, hidden: Tensor, lm_head: Any, embedding_bias: Tensor | None = None) -> Tensor:
        return batch_invariant.head(hidden, lm_head.weight[: self.vocab_size])  # without padding

    module.LogitsProcessor._compute_lm_head = compute


def sampler(module: Any) -> None:
    """sglang.srt.layers.sampler: log-probs of sampled tokens as the trainer computes them."""
    original = module.Sampler.forward

    def forward(self: Any, output: Any, info: Any, return_logprob: bool, *rest: Any, **options: Any) -> Tensor:
        logits = output.next_token_logits.float().clone() if return_logprob else None
        tokens: Tensor = original(self, output, info, return_logprob, *rest, **options)
        if logits is not None:
            scaled = logits if info.is_all_greedy else logits.div_(info.temperatures)
            output.next_token_logprobs = batch_invariant.logprobs(scaled, tokens.long())
        return tokens

    module.Sampler.forward = forward


ADAPTATIONS: dict[str, Callable[[Any], None]] = {
    "sglang.srt.layers.activation": activations,
    "sglang.srt.layers.layernorm": norms,
    "sglang.srt.layers.logits_processor": head,
    "sglang.srt.layers.quantization.unquant": linears_and_experts,
    "sglang.srt.layers.rotary_embedding.base": rotary,
    "sglang.srt.layers.sampler": sampler,
}
"""Module -> what is changed in it."""
