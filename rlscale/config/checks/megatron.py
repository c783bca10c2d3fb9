"""Do Megatron's options keep what is promised, and do they do anything; those of a mixture of experts: `moe.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.checks.subject import Subject
from rlscale.config.schema.trainer import Recompute

Refused = Mapping[str, tuple[tuple[Any, ...], str]]
"""By option: the values that are fine, and what is wrong with all others."""

OFF = (None, False)

_DROPS = "what is dropped is different in every pass, so that not even the first step's ratio would be 1; leave it out"
_GRAPHS = "a graph has one size, and micro-batches differ in size; leave it out"

REFUSED: Refused = {
    "hidden_dropout": ((0, 0.0), _DROPS),
    "attention_dropout": ((0, 0.0), _DROPS),
    "mtp_num_layers": ((None,), "multi-token prediction is not offered; leave it out"),
    "cuda_graph_impl": (("none",), _GRAPHS),
    "enable_cuda_graph": (OFF, _GRAPHS),
    "external_cuda_graph": (OFF, _GRAPHS),
}

_OF_ALL = ("core_attn",)
_DENSE, _EXPERTS = ("mlp",), ("layernorm", "moe", "moe_act")
"""Modules that can be computed again. A dense layer's norms are parts of its matrices here, and cannot."""

_UNREAD = ("mlp", "layernorm", "moe")
"""Those that Megatron takes no notice of in a model that has none; `moe_act` is an error there."""


def options_keep_the_promises(subject: Subject) -> Iterator[str]:
    """Of the policy, and of a critic where it has its own."""
    yield from of_policy_and_critic(subject.config, partial(_problems, subject))


def refused(given: Mapping[str, Any], table: Refused, key: str) -> Iterator[str]:
    """A line for each option of the section `key` whose value is none of those that are fine."""
    for name, (fine, reason) in table.items():
        if name in given and not any(type(given[name]) is type(one) and given[name] == one for one in fine):
            yield f"{key}.{name}={as_typed(given[name])}: {reason}"


def as_typed(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(as_typed, value))}]" if isinstance(value, list) else str(value)


def _problems(subject: Subject, sections: Sections, prefix: str) -> Iterator[str]:
    given = sections.trainer.megatron
    yield from refused(given, REFUSED, f"{prefix}trainer.megatron")
    if given.get("recompute_modules") is not None:
        yield from _recomputed(subject, sections, prefix)


def _recomputed(subject: Subject, sections: Sections, prefix: str) -> Iterator[str]:
    """Modules to compute again: read at all, and there."""
    modules, config = sections.trainer.megatron["recompute_modules"], subject.config
    key = f"{prefix}trainer.megatron.recompute_modules={as_typed(modules)}"
    if sections.trainer.recompute is not Recompute.selective:
        yield f"{key} is read with {prefix}trainer.recompute=selective only; set that, or leave it out"
        return
    experts = subject.has_experts(sections.model)
    known = [*_OF_ALL, *(() if experts is True else _DENSE), *(() if experts is False else _EXPERTS)]
    if sections is not config and modules == config.trainer.megatron.get("recompute_modules"):
        known += [module for module in _UNREAD if module not in known]  # a critic follows a policy with other modules
    if not isinstance(modules, list) or not modules:
        yield f"{key}: must be a list of one or more of {', '.join(known)}"
        return
    unknown = [str(module) for module in modules if module not in known]
    if unknown:
        yield f"{key}: {sections.model.name} has no {', '.join(unknown)} to compute again; known are {', '.join(known)}"


MEGATRON_CHECKS: tuple[Callable[[Subject], Iterator[str]], ...] = (options_keep_the_promises,)
