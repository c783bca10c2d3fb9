"""Which tensors a model has: names and shapes from its family and config, and the parameters that they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from rlscale.families import FAMILIES
from rlscale.families.family import EXPERT_COUNTS, HF, Form, Head, HFTensor, Layers, Rule, dimensions
from rlscale.families.multi_token_prediction import predicting_rules

EMBEDDING, LANGUAGE_HEAD = "model.embed_tokens.weight", "lm_head.weight"

_LAYER_NUMBER = re.compile(r"^model\.layers\.\d+\.")

_VOCABULARY = ("vocabulary", "hidden")
_UNTIED = (Rule("output_layer.weight", (HFTensor(LANGUAGE_HEAD, _VOCABULARY),), Form.vocabulary, 0),)
_TIED = (Rule("output_layer.weight", (HFTensor(EMBEDDING, _VOCABULARY),), Form.vocabulary, 0),)
_VALUE = (  # the names of transformers' ...ForTokenClassification
    Rule("output_layer.weight", (HFTensor("score.weight", ("one", "hidden")),), optional=True),
    Rule("output_layer.bias", (HFTensor("score.bias", ("one",)),), optional=True),
)


def head_rules(config: Mapping[str, Any], head: Head) -> tuple[Rule, ...]:
    """The rules of what stands on the last layer. A value head is never tied to the embedding."""
    if head is Head.value:
        return _VALUE
    return _TIED if config.get("tie_word_embeddings") else _UNTIED


def expected_tensors(
    config: Mapping[str, Any], head: Head, most: int | None = None, *, mtp: bool = False
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Name -> shape, and whether it may be missing, of each tensor of a model; the first `most` of them.

    `mtp`: also of the layer that predicts a token further.
    """
    sizes, family = dimensions(config), FAMILIES[config["model_type"]]
    rules = [(rule, rule.numbers(config)) for rule in (*family.rules_of(config), *head_rules(config, head))]
    if mtp:
        rules += [(rule, [config["num_hidden_layers"]]) for rule in predicting_rules(family, config)]
    expected: dict[str, tuple[tuple[int, ...], bool]] = {}
    for rule, layers in rules:
        for tensor in rule.hf:
            shape = tuple(sizes[size] for size in tensor.shape)
            for name in _names(tensor.name, layers, sizes["experts"]):
                expected[name] = (shape, rule.optional)
                if most is not None and len(expected) >= most:
                    return expected
    return expected


def _names(pattern: str, layers: Sequence[int], experts: int) -> Iterator[str]:
    for layer in layers:
        if "{expert}" in pattern:
            yield from (pattern.format(layer=layer, expert=expert) for expert in range(experts))
        else:
            yield pattern.format(layer=layer)


def carried_tensors(config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """As `expected_tensors`, of the tensors of a folder that the trainer computes nothing with."""
    sizes = dimensions(config)
    return {
        tensor.name.format(layer=layer): (tuple(sizes[size] for size in tensor.shape), rule.optional)
        for rule in FAMILIES[config["model_type"]].carried
        for layer in rule.numbers(config)
        for tensor in rule.hf
    }


def is_kept(name: str, config: Mapping[str, Any]) -> bool:
    """Whether exports have a tensor of a folder as it is: one of a layer that predicts further tokens and is not
    trained, or one that is carried."""
    family = FAMILIES[config["model_type"]]
    if family.kept is not None and name.startswith(family.kept):
        return True
    if family.carried and _LAYER_NUMBER.sub(HF, name, 1) in {x.name for rule in family.carried for x in rule.hf}:
        return True
    first = config["num_hidden_layers"]
    kept = range(first, first + int(config.get("num_nextn_predict_layers") or 0))
    return any(name.startswith(f"model.layers.{layer}.") for layer in kept)


def parameter_count(config: Mapping[str, Any], *, mtp: bool = False) -> int:
    """Parameters of a policy with this completed config; a tied embedding counts once.

    `mtp`: with those of the layer that predicts a token further.
    """
    rules = (*FAMILIES[config["model_type"]].rules_of(config), *head_rules(config, Head.language))
    counted: dict[tuple[str, Layers], Rule] = {}
    for rule in rules:
        if not rule.frozen:
            counted[rule.hf[0].name, rule.layers] = rule
    more = predicting_layer(config) if mtp else []
    return _parameters(config, [*counted.values(), *more], dimensions(config)["experts"])


def predicting_layer(config: Mapping[str, Any]) -> list[Rule]:
    """The trained parameters of the layer that predicts a token further, once."""
    rules = predicting_rules(FAMILIES[config["model_type"]], config)
    return [replace(rule, layers=Layers.predicting) for rule in rules if not rule.frozen]


def visited_parameters(config: Mapping[str, Any], *, mtp: bool = False) -> int:
    """Parameters that every token is multiplied with: matrices, the output projection, the experts it is sent to.

    `mtp`: also those of the layer that predicts a token further.
    """
    family = FAMILIES[config["model_type"]]
    inside = [*family.rules_of(config)]
    if mtp:
        inside += predicting_layer(config)
    matrices = [rule for rule in inside if "{layer}" in rule.megatron and len(rule.hf[0].shape) > 1]
    return _parameters(config, [*matrices, *_UNTIED], int(config.get("num_experts_per_tok") or 0))


def _parameters(config: Mapping[str, Any], rules: Iterable[Rule], experts: int) -> int:
    """What the rules' tensors hold over all layers, with that many experts in each."""
    sizes, total = dimensions(config), 0
    for rule in rules:
        times = len(rule.numbers(config)) * (experts if "{expert}" in rule.megatron else 1)
        total += times * sum(prod(sizes[size] for size in tensor.shape) for tensor in rule.hf)
    return total


def experts_of(config: Mapping[str, Any]) -> int:
    """Experts of each layer, 0 in a dense model, whatever its config says of experts: transformers does not read it.

    transformers 5 writes their number under another name than the released models.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is not None and not family.experts:
        return 0
    number = next((config[name] for name in EXPERT_COUNTS if config.get(name)), 0)
    return number if isinstance(number, int) and number > 0 else 0
