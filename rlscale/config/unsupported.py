"""What a Hugging Face config of a family that is known can say and the trainer has not: refused, not left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.config.architecture import experts_of


def unsupported(architecture: Mapping[str, Any]) -> Iterator[str]:
    """A line for each, without the name of the model. `model_type` must be a family that is known."""
    family = architecture["model_type"]
    scaling = architecture.get("rope_scaling") or architecture.get("rope_parameters") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        yield f"rope scaling {scaling} is not supported for {family}; only plain rotary positions"
    if architecture.get("use_sliding_window"):
        yield f"sliding-window attention (use_sliding_window=true) is not supported for {family}"
    if architecture.get("attention_bias"):
        yield f"attention_bias=true is not supported for {family}"
    if architecture.get("hidden_act", "silu") not in ("silu", "swish"):
        yield f"hidden_act={architecture['hidden_act']} is not supported for {family}; only silu"
    if family == "qwen3_moe":
        yield from _of_experts(architecture)


def _of_experts(architecture: Mapping[str, Any]) -> Iterator[str]:
    if architecture.get("mlp_only_layers") or architecture.get("decoder_sparse_step", 1) != 1:
        yield "dense layers between those with experts (mlp_only_layers, decoder_sparse_step) are not supported"
    if not architecture.get("norm_topk_prob", False):
        yield "norm_topk_prob=false (also where it is not given) is not supported for qwen3_moe"
    chosen, experts = architecture.get("num_experts_per_tok"), experts_of(architecture)
    if isinstance(chosen, int) and chosen > experts > 0:
        yield f"num_experts_per_tok={chosen} is above the {experts} experts of a layer"
