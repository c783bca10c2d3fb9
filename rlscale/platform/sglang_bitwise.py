"""SGLang on the CPU computing with the operations of the trainer, see `batch_invariant` and `elementwise`.

For an engine whose log-probs must be the trainer's bit for bit (`run.bitwise`): its linears, experts, norms, rotary
positions, activations, attention and log-probs are replaced, nothing of its scheduling, caching or sampling. Experts
are computed as Megatron does: the weight of a choice goes onto the activation, the sum goes in the experts' order.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlscale.families import FAMILIES
from rlscale.families.config_file import CONFIG, complete, read_json
from rlscale.families.latent_attention import scale_of_scores
from rlscale.families.rotary import Rotary
from rlscale.platform import batch_invariant, sglang_attention, sglang_bitwise_latent
from rlscale.platform.elementwise import rms_norm, rotate, swiglu
from rlscale.platform.invariant_products import product
from rlscale.platform.rotary_frequencies import frequencies

_KEYS = 2048
"""Most keys of one call of attention: keys and values in float32, gathered from the cache, then stay in the core's."""


def adapt(model_folder: str) -> None:
    """Change SGLang in this process, which is to serve the model of a folder; its modules are imported by now or later.

    A model without gated delta nets.
    """
    config = complete(read_json(Path(model_folder) / CONFIG))
    family, positions = FAMILIES[config["model_type"]], Rotary.of(config)
    sglang_attention.attend = _attention(config, positions)
    sglang_attention.keys_together, sglang_attention.PADDED_KEYS = batch_invariant.KEYS, _KEYS
    for module, kind in ROTARY.items():
        rotary_positions(getattr(importlib.import_module(module), kind), config, positions)
    if family.latent:
        sglang_bitwise_latent.adapt()
    torch.nn.functional.linear = batch_invariant.linear  # type: ignore[assignment]  # of every module of this process
    for name, change in ADAPTATIONS.items():
        change(importlib.import_module(name))
    if family.model_type in SCALED_CHOICES:
        module, layer = SCALED_CHOICES[family.model_type]
        scaled_choice(getattr(importlib.import_module(module), layer))


def linears_and_experts(module: Any) -> None:
    """sglang.srt.layers.quantization.unquant: products by tiles."""

    def apply(self: Any, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return batch_invariant.linear(x, layer.weight, bias)

    def experts(self: Any, layer: Any, dispatch_output: Any) -> Any:
        from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

        x, (weights, chosen, _) = dispatch_output.hidden_states, dispatch_output.topk_output
        chosen = chosen.long()
        outputs, places = [], []
        for expert in chosen.unique().tolist():
            rows, place = (chosen == expert).nonzero(as_tuple=True)
            hidden = swiglu(product(x[rows], layer.w13_weight[expert]))
            hidden = (hidden * weights[rows, place, None]).to(x.dtype)
            outputs.append(product(hidden, layer.w2_weight[expert]))
            places.append(rows)
        index = torch.cat(places)[:, None].expand(-1, x.shape[1])
        output = torch.zeros_like(x).scatter_add_(0, index, torch.cat(outputs))  # Megatron's, which rounds once
        return StandardCombineInput(hidden_states=output)

    module.UnquantizedLinearMethod.apply = apply
    module.UnquantizedFusedMoEMethod.forward_cpu = module.UnquantizedFusedMoEMethod.forward_native = experts


def expert_choice(module: Any) -> None:
    """sglang.srt.layers.moe.topk: the weights of chosen experts as Megatron's router computes them."""
    original = module.select_experts

    def select_experts(*, router_logits: Tensor, topk_config: Any, **options: Any) -> Any:
        chosen = original(router_logits=router_logits, topk_config=topk_config, **options)
        weights, numbers = choice_weights(router_logits, chosen.topk_ids.long(), topk_config)
        return chosen._replace(topk_weights=weights, topk_ids=numbers.to(chosen.topk_ids.dtype))

    module.select_experts = select_experts


def choice_weights(logits: Tensor, chosen: Tensor, choice: Any) -> tuple[Tensor, Tensor]:
    """Weights of the chosen experts, and their numbers from the best to the last, which is the order of their sum.

    Shapes: logits [n, experts], chosen int64 [n, k] -> [n, k] each. `choice`: SGLang's TopKConfig.
    """
    scores = order = logits
    # In groups with a bias, SGLang takes the sigmoid whatever `scoring_func` says.
    sigmoid = choice.scoring_func == "sigmoid" or (choice.use_grouped_topk and choice.correction_bias is not None)
    if sigmoid:
        scores = order = batch_invariant.sigmoid(logits.float()).type_as(logits)
    if choice.correction_bias is not None:
        order = scores + choice.correction_bias
    chosen = chosen.gather(1, order.gather(1, chosen).argsort(1, descending=True))
    if sigmoid:
        picked = scores.gather(1, chosen)
        weights = picked / (picked.sum(-1, keepdim=True) + 1e-20) if chosen.shape[1] > 1 else picked
    elif choice.renormalize:
        weights = torch.softmax(logits.gather(1, chosen), -1, dtype=torch.float32).type_as(logits)
    else:
        weights = torch.softmax(logits, -1, dtype=torch.float32).type_as(logits).gather(1, chosen)
    if choice.apply_routed_scaling_factor_on_output and choice.routed_scaling_factor:
        weights = weights * choice.routed_scaling_factor
    return weights, chosen


def scaled_choice(layer: Any) -> None:
    """A layer of experts (see `SCALED_CHOICES`): their factor is part of each one's weight, not of their sum."""
    original = layer.__init__

    def init(self: Any, *given: Any, **options: Any) -> None:
        original(self, *given, **options)
        self.topk.topk_config.apply_routed_scaling_factor_on_output = True
        self.routed_scaling_factor = 1.0

    layer.__init__ = init


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


def _attention(config: Mapping[str, Any], positions: Rotary) -> Callable[..., Tensor]:
    """Attention by blocks, with the factor of its scores that the trainer's model has, whatever SGLang's has."""
    if FAMILIES[config["model_type"]].latent:
        scale = scale_of_scores(config)
    else:
        size = config["head_dim"]
        scale = size**-0.5 if positions.magnitude == 1 else float(positions.magnitude**2 / size**0.5)

    def attend(query: Tensor, key: Tensor, value: Tensor, last: Tensor, given: float) -> Tensor:
        return batch_invariant.attention(query, key, value, last, scale)

    return attend


def rotary_positions(kind: Any, config: Mapping[str, Any], positions: Rotary) -> None:
    """A class of `ROTARY`: the trainer's rotary positions, from the trainer's angles.

    SGLang's kinds differ from them by rounding, and YaRN's factor of queries and keys is in that of the scores.
    """
    angles = frequencies(positions, int(config["head_dim"]))

    def forward(self: Any, positions: Tensor, query: Tensor, key: Tensor, *unused: Any, **options: Any) -> Any:
        turned = positions[:, None, None].float() * angles
        cosine, sine = turned.cos().to(query.dtype), turned.sin().to(query.dtype)

        def rotated(x: Tensor) -> Tensor:
            heads = x.reshape(len(x), -1, self.head_size)
            return rotate(heads, cosine, sine, neighbours=not self.is_neox_style).reshape(x.shape)

        return rotated(query), rotated(key)

    kind.forward_native = kind.forward_cpu = forward


def head(module: Any) -> None:
    """sglang.srt.layers.logits_processor: logits by tiles of tokens and blocks of words."""

    def compute(self: Any, hidden: Tensor, lm_head: Any, embedding_bias: Tensor | None = None) -> Tensor:
        return batch_invariant.head(hidden, lm_head.weight[: self.vocab_size])  # without padding

    module.LogitsProcessor._compute_lm_head = compute


def sampler(module: Any) -> None:
    """sglang.srt.layers.sampler: log-probs of sampled tokens as the trainer computes them, also among the words that
    one was drawn from (top-p, top-k), where those are named.
    """
    original = module.Sampler.forward

    def forward(self: Any, output: Any, info: Any, return_logprob: bool, *rest: Any, **options: Any) -> Tensor:
        logits = output.next_token_logits.float().clone() if return_logprob else None
        tokens: Tensor = original(self, output, info, return_logprob, *rest, **options)
        if logits is not None:
            scaled = logits if info.is_all_greedy else logits.div_(info.temperatures)
            output.next_token_logprobs = batch_invariant.logprobs(scaled, tokens.long())
            _among_named(output, scaled, tokens.long())
        return tokens

    module.Sampler.forward = forward


def _among_named(output: Any, logits: Tensor, tokens: Tensor) -> None:
    """Log-probs of the rows whose words are named; the logits of the others are replaced."""
    named = output.next_token_sampling_mask_idx or []
    rows = [row for row, words in enumerate(named) if words is not None]
    if not rows:
        return
    left_out = torch.ones(len(rows), logits.shape[1], dtype=torch.bool)
    for place, row in enumerate(rows):
        left_out[place, named[row]] = False
    own = batch_invariant.logprobs(logits[rows].masked_fill_(left_out, batch_invariant.NOTHING), tokens[rows])
    for row, logprob in zip(rows, own.tolist(), strict=True):
        output.next_token_sampling_logprobs[row] = logprob


ADAPTATIONS: dict[str, Callable[[Any], None]] = {
    "sglang.srt.layers.activation": activations,
    "sglang.srt.layers.layernorm": norms,
    "sglang.srt.layers.logits_processor": head,
    "sglang.srt.layers.moe.topk": expert_choice,
    "sglang.srt.layers.quantization.unquant": linears_and_experts,
    "sglang.srt.layers.sampler": sampler,
}
"""Module -> what is changed in it."""

ROTARY = {
    "sglang.srt.layers.rotary_embedding.base": "RotaryEmbedding",
    "sglang.srt.layers.rotary_embedding.rope_variant": "DeepseekScalingRotaryEmbedding",
}
"""Module -> its class of rotary positions that has a forward pass of its own."""

_LATENT = ("sglang.srt.models.deepseek_v2", "DeepseekV2MoE")
SCALED_CHOICES = {
    "deepseek_v3": _LATENT,
    "glm_moe_dsa": _LATENT,
    "glm4_moe": ("sglang.srt.models.glm4_moe", "Glm4MoeSparseMoeBlock"),
    "glm4_moe_lite": ("sglang.srt.models.glm4_moe_lite", "Glm4MoeLiteSparseMoeBlock"),
}
"""Family -> module and name of its layer of experts, whose sum has a factor."""
