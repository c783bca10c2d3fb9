"""The layer behind a model's own that predicts a token further (DeepSeek-V3, arXiv 2412.19437, section 2.2).

It reads what the model makes of token t (behind its last norm) and the embedding of token t + 1, each through a norm,
makes one vector of the two, and has a decoder layer of the family and a norm in front of the model's own output
projection. Its embedding and projection are the model's; most published folders hold copies of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rlscale.families.family import HF, LAYER, Family, HFTensor, Layers, Rule

_OWN = {
    "enorm": ("hidden",),
    "hnorm": ("hidden",),
    "eh_proj": ("hidden", "twice_hidden"),
    "final_layernorm": ("hidden",),
}
"""What it has besides the parameters of a decoder layer, by the names of Megatron's own such layer: their shapes."""


def _own(*hf: str) -> tuple[Rule, ...]:
    """The rules of `_OWN`, by the names in Hugging Face's files, in that order."""
    return tuple(
        Rule(LAYER + f"{megatron}.weight", (HFTensor(f"{name}.weight", shape),), layers=Layers.predicting)
        for (megatron, shape), name in zip(_OWN.items(), hf, strict=True)
    )


MTP = _own(HF + "enorm", HF + "hnorm", HF + "eh_proj", HF + "shared_head.norm")
"""In families whose folders have it as one more layer, with copies of embedding and output projection (DeepSeek)."""

MTP_MODULE = _own("mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden", "mtp.fc", "mtp.norm")
"""In families whose folders have it as a module of its own, below `Family.kept`, without copies (Qwen3-Next)."""

_COPIES = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}
"""Tensors of the layer in a folder, and those of the model that they repeat."""


_LIKE = (Layers.every, Layers.sparse, Layers.full)
"""Which layers it is like: with experts where there are any, with attention where others have gated delta nets."""


def predicting_rules(family: Family, config: Mapping[str, Any]) -> Iterator[Rule]:
    """The parameters of the layer that predicts a token further, as rules of the layer of that number."""
    for rule in family.rules_of(config):
        if "{layer}" in rule.megatron and rule.layers in _LIKE:
            yield rule if family.kept is None else _below(rule, f"{family.kept}layers.0.")
    yield from family.mtp


def beginning_of(family: Family, config: Mapping[str, Any]) -> str:
    """What the names of its tensors begin with in a folder."""
    return family.kept or HF.format(layer=config["num_hidden_layers"])


def _below(rule: Rule, beginning: str) -> Rule:
    """The rule with another beginning of its tensors' names than that of a layer of the model."""
    return replace(rule, hf=tuple(replace(x, name=x.name.replace(HF, beginning, 1)) for x in rule.hf))


def copies(config: Mapping[str, Any]) -> dict[str, str]:
    """Name in the layer -> name in the model of each tensor that published folders hold twice."""
    layer = HF.format(layer=config["num_hidden_layers"])
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.get("tie_word_embeddings") else {}
    return {layer + name: tied.get(of_model, of_model) for name, of_model in _COPIES.items()}


def why_not_trained(family: Family, config: Mapping[str, Any]) -> str | None:
    """Why a model with this completed config has no such layer that can be trained; None where it has."""
    layers = config.get("num_nextn_predict_layers")
    if family.mtp:
        if layers == 1 or family.kept is not None:  # a module of its own is in the folder, or it is refused
            return None
        what = "has no such layer" if not layers else "has several such layers, of which one can be trained"
        return f"num_nextn_predict_layers={layers} says that the model {what}"
    return f"{family.model_type} has no layer that predicts further tokens"
