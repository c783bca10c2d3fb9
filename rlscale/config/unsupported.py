"""What a Hugging Face config of a family that is known can say and the trainer has not: refused, not left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_QUANTISED = ("quantization_config", "compression_config", "quantization")
"""Keys under which tools say that the folder's weights are quantised."""


def unsupported(architecture: Mapping[str, Any]) -> Iterator[str]:
    """A line for each, without the name of the model. The config must be completed, and of a family that is known."""
    family = architecture["model_type"]
    for key in _QUANTISED:
        if architecture.get(key) is not None:
            yield f"{key} says that its weights are quantised{_method(architecture[key])}; {_GIVE_FLOATS}"
    scaling = {key: value for key, value in architecture["rope_parameters"].items() if key != "rope_theta"}
    if scaling["rope_type"] != "default":
        yield f"rope scaling {scaling} is not supported for {family}; only plain rotary positions"
    elif architecture.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1)) != 1:
        yield f"partial_rotary_factor is not supported for {family}; only rotary positions of whole heads"
    if architecture["use_sliding_window"]:
        yield f"sliding-window attention (use_sliding_window=true) is not supported for {family}"
    elif other := {*architecture.get("layer_types", ())} - {"full_attention"}:
        yield f"layer_types with {', '.join(sorted(other))} is not supported for {family}; only full_attention"
    if architecture["attention_bias"]:
        yield f"attention_bias=true is not supported for {family}"
    if architecture["hidden_act"] not in ("silu", "swish"):
        yield f"hidden_act={architecture['hidden_act']} is not supported for {family}; only silu"
    if family == "qwen3_moe":
        yield from _of_experts(architecture)


_GIVE_FLOATS = "give a folder with weights in float32, bfloat16 or float16"


def _method(quantisation: Any) -> str:
    method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
    return f" ({method})" if method else ""


def _of_experts(architecture: Mapping[str, Any]) -> Iterator[str]:
    if architecture["mlp_only_layers"] or architecture["decoder_sparse_step"] != 1:
        yield "dense layers between those with experts (mlp_only_layers, decoder_sparse_step) are not supported"
    if not architecture["norm_topk_prob"]:
        yield "norm_topk_prob=false (also where it is not given) is not supported for qwen3_moe"
    chosen, experts = architecture["num_experts_per_tok"], architecture["num_experts"]
    if chosen > experts:
        yield f"num_experts_per_tok={chosen} is above the {experts} experts of a layer"
