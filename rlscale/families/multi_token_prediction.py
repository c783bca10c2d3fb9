"""The layer behind a model's own that predicts a token further (DeepSeek-V3, arXiv 2412.19437, section 2.2).

It reads what the model makes of token t (behind its last norm) and the embedding of token t + 1, each through a norm,
makes one vector of the two, and has a decoder layer of the family and a norm in front of the model's own output
projection. Its embedding and projection are the model's; published folders hold copies of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.families.family import HF, LAYER, Family, HFTensor, Layers, Rule

MTP = tuple(
    Rule(LAYER + f"{megatron}.weight", (HFTensor(HF + f"{hf}.weight", shape),), layers=Layers.predicting)
    for megatron, hf, shape in (
        ("enorm", "enorm", ("hidden",)),
        ("hnorm", "hnorm", ("hidden",)),
        ("eh_proj", "eh_proj", ("hidden", "twice_hidden")),
        ("final_layernorm", "shared_head.norm", ("hidden",)),
    )
)
"""What it has besides the parameters of a decoder layer. Megatron's names are those of its own such layer."""

_COPIES = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}
"""Tensors of the layer in a folder, and those of the model that they repeat."""


def predicting_rules(family: Family, config: Mapping[str, Any]) -> Iterator[Rule]:
    """The parameters of the layer that predicts a token further, as rules of the layer of that number."""
    for rule in family.rules_of(config):
        if "{layer}" in rule.megatron and rule.layers in (Layers.every, Layers.sparse):
            yield rule
    yield from family.mtp


def copies(config: Mapping[str, Any]) -> dict[str, str]:
    """Name in the layer -> name in the model of each tensor that published folders hold twice."""
    layer = HF.format(layer=config["num_hidden_layers"])
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.get("tie_word_embeddings") else {}
    return {layer + name: tied.get(of_model, of_model) for name, of_model in _COPIES.items()}


def why_not_trained(family: Family, config: Mapping[str, Any]) -> str | None:
    """Why a model with this completed config has no such layer that can be trained; None where it has."""
    layers = config.get("num_nextn_predict_layers")
    if family.mtp:
        if layers == 1:
            return None
        what = "has no such layer" if not layers else "has several such layers, of which one can be trained"
        return f"num_nextn_predict_layers={layers} says that the model {what}"
    if family.kept is not None:
        return f"is not supported for {family.model_type}, whose layer ({family.kept}) has another form"
    return f"{family.model_type} has no layer that predicts further tokens"
