"""Which linear layers of a model can have an adapter, by the names of their weights in Hugging Face's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from rlscale.families import FAMILIES
from rlscale.families.family import Form, Rule, dimensions

_WEIGHT = ".weight"


def linear_rules(config: Mapping[str, Any]) -> list[Rule]:
    """The rules of the linears between a layer's norms: of attention, dense and shared MLPs, and of each expert.

    Routers are none, nor are the projections of gated delta nets, whose parts no plain cut of rows splits over ranks.
    """
    return [
        rule
        for rule in FAMILIES[str(config["model_type"])].rules_of(config)
        if ".linear_" in rule.megatron
        and len(rule.hf[0].shape) == 2
        and rule.form in (Form.plain, Form.qkv, Form.gated_qkv, Form.gate_up)
    ]


def is_of_expert(rule: Rule) -> bool:
    """Whether a rule is of one of many experts."""
    return "{expert}" in rule.megatron


def linear_names(config: Mapping[str, Any], *, experts: bool) -> Iterator[str]:
    """The linears' names without `.weight`: outside experts, or those of experts."""
    numbers = range(dimensions(config)["experts"]) if experts else range(1)
    for rule in linear_rules(config):
        if is_of_expert(rule) == experts:
            for layer in rule.numbers(config):
                for tensor in rule.hf:
                    yield from (module(tensor.name.format(layer=layer, expert=expert)) for expert in numbers)


def adapted_modules(config: Mapping[str, Any], patterns: Sequence[str] | None) -> list[str]:
    """The last parts of the names of the linears outside experts that the patterns pick (q_proj), sorted."""
    names = linear_names(config, experts=False)
    return sorted({name.rpartition(".")[2] for name in names if is_target(name, patterns)})


def adapted_linears(config: Mapping[str, Any], patterns: Sequence[str] | None) -> Iterator[str]:
    """The names of all linears with an adapter: those of experts only where patterns pick them."""
    for experts in (False, True) if patterns is not None else (False,):
        yield from (name for name in linear_names(config, experts=experts) if is_target(name, patterns))


def module(weight: str) -> str:
    """The name of a linear whose weight has that name."""
    return weight.removesuffix(_WEIGHT)


def is_target(name: str, patterns: Sequence[str] | None) -> bool:
    """Whether patterns pick a linear by its name; None picks every one (of those that `rules_to_adapt` gives)."""
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


def rules_to_adapt(config: Mapping[str, Any], patterns: Sequence[str] | None) -> list[Rule]:
    """The rules of linears that may have an adapter: without patterns none of experts."""
    return [rule for rule in linear_rules(config) if patterns is not None or not is_of_expert(rule)]


def adapter_parameters(config: Mapping[str, Any], rank: int, patterns: Sequence[str] | None) -> int:
    """Parameters of the adapters of that rank on the linears that the patterns pick.

    Of a layer's experts patterns pick all or none, which is checked elsewhere: the first one stands for all.
    """
    sizes, total = dimensions(config), 0
    for rule in rules_to_adapt(config, patterns):
        alike = sizes["experts"] if is_of_expert(rule) else 1
        for tensor in rule.hf:
            names = (module(tensor.name.format(layer=layer, expert=0)) for layer in rule.numbers(config))
            picked = alike * sum(is_target(name, patterns) for name in names)
            total += picked * rank * sum(sizes[size] for size in tensor.shape)
    return total
