"""Do Megatron's options of a mixture of experts keep what is promised: results that do not depend on how a step is
split, passes that agree with each other, and the model that the engines have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.checks.refused_options import EIGHT_BITS, OFF, UNREAD, Refused, refused
from rlscale.config.composition.command_line_text import as_typed
from rlscale.config.derived.derived_options import DERIVED
from rlscale.config.derived.expert_routing import load_balancing

_TYPE, _COEFFICIENT = "moe_router_load_balancing_type", "moe_aux_loss_coeff"
_TYPES = ("none", "aux_loss", "global_aux_loss")
_OTHER_TYPES = {
    "seq_aux_loss": "Megatron takes a packed micro-batch for one sequence; use aux_loss or global_aux_loss",
    "sinkhorn": "the choice would depend on all tokens of a micro-batch, as no engine's does; use aux_loss or none",
}

_REFUSED: Refused = {
    "moe_expert_capacity_factor": (
        (None,),
        "tokens would be dropped by what else is in their micro-batch, so that log-probs depend on the split and are "
        "not the engine's; leave it out",
    ),
    "moe_pad_expert_input_to_capacity": (OFF, "it needs moe_expert_capacity_factor, which is refused; leave it out"),
    "moe_token_drop_policy": ((), "it is read with moe_expert_capacity_factor alone, which is refused; leave it out"),
    "moe_token_dropping": (OFF, "Megatron does not support it; leave it out"),
    "moe_input_jitter_eps": (
        (None,),
        "the noise is another one in every pass, so that not even the first step's ratio would be 1; leave it out",
    ),
    "moe_router_force_load_balancing": (OFF, "random routing, for measuring speed, is not the engine's; leave it out"),
    "moe_router_enable_expert_bias": (
        OFF,
        "neither engines nor exported models have such a bias, and would choose other experts; use "
        f"{_TYPE}=aux_loss instead",
    ),
    "moe_router_bias_update_rate": (
        (),
        "is never read without moe_router_enable_expert_bias, which is refused; leave it out",
    ),
    "moe_router_fusion": (
        OFF,
        "the fused router cannot replay a choice of experts, nor say what it chose; leave it out",
    ),
    "moe_enable_routing_replay": (OFF, "set trainer.routing_replay instead"),
    "moe_router_dtype": (("fp32", "fp64"), "16 bits choose other experts than the engine; use fp32 or fp64"),
    "moe_token_dispatcher_type": (
        ("alltoall", "flex"),
        "micro-batches differ in size from rank to rank, which alltoall takes; leave it out",
    ),
    "moe_layer_recompute": (
        OFF,
        "set trainer.recompute=selective with trainer.megatron.recompute_modules=[moe] instead",
    ),
    "moe_router_padding_for_quantization": (OFF, EIGHT_BITS),
    "moe_router_padding_for_fp8": (OFF, EIGHT_BITS),
    "moe_shared_expert_overlap": (OFF, "the models that are supported have no shared experts; leave it out"),
    "moe_per_layer_logging": (OFF, UNREAD),
    "moe_extended_tp": (OFF, "Megatron ignores it; use parallel.expert_tensor"),
    "moe_enable_deepep": (OFF, "Megatron's older name; use moe_token_dispatcher_type=flex, whose default is DeepEP"),
}

_OF_FLEX = ("moe_flex_dispatcher_backend", "moe_deepep_num_sms", "moe_hybridep_num_sms")

JUDGED = frozenset((*_REFUSED, _TYPE, _COEFFICIENT, "moe_z_loss_coeff"))
"""Options of which every value that is not fine is named here."""


def options_of_experts_are_sound(context: CheckContext) -> Iterator[str]:
    """Of the policy, and of a critic where it has its own."""
    yield from of_policy_and_critic(context.config, partial(_problems, context))


def _problems(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    given, key = sections.trainer.megatron, f"{prefix}trainer.megatron"
    meant = [name for name in given if name.startswith("moe_") and name not in DERIVED["transformer"]]
    if meant and context.has_experts(sections.model) is False:
        # A dense critic that follows a policy with experts has the policy's options, which then mean nothing.
        if sections is context.config or given != context.config.trainer.megatron:
            yield f"{key}.{meant[0]}: {sections.model.name} has no experts; leave it out"
        return
    yield from refused(given, _REFUSED, key)
    yield from _placed(context, given, key)
    yield from _balancing(given, key)
    z_loss = given.get("moe_z_loss_coeff")
    if z_loss is not None and not _is_coefficient(z_loss):
        yield f"{key}.moe_z_loss_coeff={as_typed(z_loss)}: must be a finite number of at least 0"


def _placed(context: CheckContext, given: Mapping[str, Any], key: str) -> Iterator[str]:
    """What needs a kind of device or a layout."""
    if given.get("moe_permute_fusion") is True and not context.on_gpus:
        yield f"{key}.moe_permute_fusion=true needs Transformer Engine, which does not run on the CPU; leave it out"
    if given.get("moe_token_dispatcher_type") != "flex":
        for name in _OF_FLEX:
            if name in given:
                yield f"{key}.{name} is read only with moe_token_dispatcher_type=flex; set that, or leave it out"
        return
    parallel = context.config.parallel
    if not context.on_gpus:
        yield f"{key}.moe_token_dispatcher_type=flex needs cluster.device=cuda (DeepEP); leave it out"
    elif parallel.expert * (parallel.expert_tensor or 1) == 1:
        yield (
            f"{key}.moe_token_dispatcher_type=flex needs parallel.expert x parallel.expert_tensor above 1; leave it out"
        )


def _balancing(given: Mapping[str, Any], key: str) -> Iterator[str]:
    """Types of load balancing that there are, each with a coefficient."""
    kinds, coefficients = given.get(_TYPE, "none"), given.get(_COEFFICIENT, 0.0)
    try:
        pairs = load_balancing(kinds, coefficients)
    except ValueError:
        yield (
            f"{key}.{_TYPE}={as_typed(kinds)} with {_COEFFICIENT}={as_typed(coefficients)}: give a list of different "
            "types and a list of as many coefficients, or one of each"
        )
        return
    for kind, coefficient in pairs:
        if kind not in _TYPES:
            hint = _OTHER_TYPES.get(str(kind), f"must be {', '.join(_TYPES[:-1])} or {_TYPES[-1]}")
            yield f"{key}.{_TYPE}={as_typed(kind)}: {hint}"
        elif not _is_coefficient(coefficient):
            yield f"{key}.{_COEFFICIENT}={as_typed(coefficient)}: must be a finite number of at least 0"
        elif kind == "none" and coefficient:
            yield (
                f"{key}.{_COEFFICIENT}={as_typed(coefficient)} is never read with {_TYPE}=none; set that to aux_loss "
                "or global_aux_loss, or leave it out"
            )
        elif kind != "none" and not coefficient:
            yield f"{key}.{_TYPE}={kind} does nothing without {_COEFFICIENT}; give one such as 1e-3, or leave it out"


def _is_coefficient(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


MOE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (options_of_experts_are_sound,)
