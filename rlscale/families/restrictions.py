"""What the config of a known family can say and the trainer does not support: refused, not left out.

A family lists those that apply to it (`Family.restrictions`). Each takes a completed config and yields a line, without
the name of the model, for what it finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.families.family import FolderError
from rlscale.families.quantisation import quantisation_of
from rlscale.families.rotary import Rotary


def readable_weights(config: Mapping[str, Any]) -> Iterator[str]:
    """Weights are numbers, or quantised in a form that is read."""
    try:
        quantisation_of(config)
    except FolderError as error:
        yield str(error)


def rotary_of_whole_heads(config: Mapping[str, Any]) -> Iterator[str]:
    """Rotary positions turn all of a head."""
    if Rotary.of(config).share != 1:
        yield f"partial_rotary_factor is not supported for {config['model_type']}; only rotary positions of whole heads"


def no_attention_bias(config: Mapping[str, Any]) -> Iterator[str]:
    """Projections of attention without biases."""
    if config.get("attention_bias"):
        yield f"attention_bias=true is not supported for {config['model_type']}"


def no_mlp_bias(config: Mapping[str, Any]) -> Iterator[str]:
    """Projections of the MLP without biases."""
    if config.get("mlp_bias"):
        yield f"mlp_bias=true is not supported for {config['model_type']}"


def heads_divide_hidden(config: Mapping[str, Any]) -> Iterator[str]:
    """Heads divide the hidden size, also where their own size is given."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if hidden % heads:
        yield f"hidden_size={hidden} is not a multiple of num_attention_heads={heads}, which transformers asks for"


def silu_activation(config: Mapping[str, Any]) -> Iterator[str]:
    """The gate of the MLP is SiLU."""
    if config["hidden_act"] not in ("silu", "swish"):
        yield f"hidden_act={config['hidden_act']} is not supported for {config['model_type']}; only silu"


def experts_in_every_layer(config: Mapping[str, Any]) -> Iterator[str]:
    """No dense layers between those with experts."""
    if config["mlp_only_layers"] or config["decoder_sparse_step"] != 1:
        yield "dense layers between those with experts (mlp_only_layers, decoder_sparse_step) are not supported"


def normalised_routing(config: Mapping[str, Any]) -> Iterator[str]:
    """The probabilities of the chosen experts sum to 1, and no more are chosen than there are."""
    if not config["norm_topk_prob"]:
        yield f"norm_topk_prob=false (also where it is not given) is not supported for {config['model_type']}"
    chosen, experts = config["num_experts_per_tok"], config["num_experts"]
    if chosen > experts:
        yield f"num_experts_per_tok={chosen} is above the {experts} experts of a layer"


def shared_experts(config: Mapping[str, Any]) -> Iterator[str]:
    """Experts that every token visits, and at least one layer with experts."""
    if not config["n_shared_experts"]:
        yield f"n_shared_experts=0 is not supported for {config['model_type']}"
    if config["first_k_dense_replace"] >= config["num_hidden_layers"]:
        yield f"first_k_dense_replace={config['first_k_dense_replace']} leaves no layer with experts"


def dense_layers_are_said_alike(config: Mapping[str, Any], usual: int | None = None) -> Iterator[str]:
    """SGLang counts the dense layers by `first_k_dense_replace`, transformers reads `mlp_layer_types`.

    `usual`: how many transformers takes where the latter is not given; None where it counts as SGLang does then.
    """
    dense, layers = config["first_k_dense_replace"], config["num_hidden_layers"]
    said, counted = (["dense"] * number + ["sparse"] * (layers - number) for number in (dense, usual or dense))
    if config.get("mlp_layer_types", counted) != said:
        hint = "" if usual is None else f" ({usual} of them where it is not given)"
        yield (
            f"first_k_dense_replace={dense}, which SGLang reads, and mlp_layer_types, which transformers reads{hint}, "
            "must say the same dense layers"
        )


def choosable_groups(config: Mapping[str, Any]) -> Iterator[str]:
    """Groups of experts that are scored as Megatron scores them: by the best topk / group_topk of each."""
    experts, groups, chosen = config["num_experts"], config["n_group"], config["topk_group"]
    if experts % groups or chosen > groups:
        yield f"n_group={groups} and topk_group={chosen} do not divide the {experts} experts of a layer"
    elif groups > 1 and config["num_experts_per_tok"] != 2 * chosen:
        yield (
            f"num_experts_per_tok={config['num_experts_per_tok']} with topk_group={chosen} is not supported: groups "
            "are scored by their best two experts, which Megatron does where each chosen group gives two"
        )
