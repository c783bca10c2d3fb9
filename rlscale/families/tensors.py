"""Which tensors a model has: names and shapes from its family and config, and the parameters that they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from rlscale.families import FAMILIES
from rlscale.families.family import Form, Head, HFTensor, Rule, dimensions

EMBEDDING, LANGUAGE_HEAD = "model.embed_tokens.weight", "lm_head.weight"

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
    config: Mapping[str, Any], head: Head, most: int | None = None
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Name -> shape, and whether it may be missing, of each tensor of a model; the first `most` of them."""
    sizes = dimensions(config)
    expected: dict[str, tuple[tuple[int, ...], bool]] = {}
    for rule in (*FAMILIES[config["model_type"]].rules_of(config), *head_rules(config, head)):
        for tensor in rule.hf:
            shape = tuple(sizes[size] for size in tensor.shape)
            for name in _names(tensor.name, config["num_hidden_layers"], sizes["experts"]):
                expected[name] = (shape, rule.optional)
                if most is not None and len(expected) >= most:
                    return expected
    return expected


def _names(pattern: str, layers: int, experts: int) -> Iterator[str]:
    if "{layer}" not in pattern:
        yield pattern
        return
    for layer in range(layers):
        if "{expert}" in pattern:
            yield from (pattern.format(layer=layer, expert=expert) for expert in range(experts))
        else:
            yield pattern.format(layer=layer)


def parameter_count(config: Mapping[str, Any]) -> int:
    """Parameters of a policy with this completed config; a tied embedding counts once."""
    rules = (*FAMILIES[config["model_type"]].rules_of(config), *head_rules(config, Head.language))
    return _parameters(
        config, {tensor.name: tensor for rule in rules for tensor in rule.hf}, dimensions(config)["experts"]
    )


def visited_parameters(config: Mapping[str, Any]) -> int:
    """Parameters that every token is multiplied with: matrices, the output projection, the experts it is sent to."""
    inside = {tensor.name: tensor for rule in FAMILIES[config["model_type"]].rules_of(config) for tensor in rule.hf}
    matrices = {name: tensor for name, tensor in inside.items() if "{layer}" in name and len(tensor.shape) > 1}
    output = HFTensor(LANGUAGE_HEAD, _VOCABULARY)
    return _parameters(config, {**matrices, output.name: output}, int(config.get("num_experts_per_tok") or 0))


def _parameters(config: Mapping[str, Any], tensors: Mapping[str, HFTensor], experts: int) -> int:
    """What the tensors hold over all layers, with that many experts in each."""
    sizes, total = dimensions(config), 0
    for name, tensor in tensors.items():
        times = (config["num_hidden_layers"] if "{layer}" in name else 1) * (experts if "{expert}" in name else 1)
        total += times * prod(sizes[size] for size in tensor.shape)
    return total


def experts_of(config: Mapping[str, Any]) -> int:
    """Experts of each layer, 0 in a dense model, whatever its config says of experts: transformers does not read it.

    transformers 5 writes their number under another name than the released models.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is not None and not family.experts:
        return 0
    number = config.get("num_experts") or config.get("num_local_experts")
    return number if isinstance(number, int) and number > 0 else 0
