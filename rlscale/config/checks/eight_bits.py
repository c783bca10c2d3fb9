"""Can the products of the trainer be made in FP8 (`trainer.fp8`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.trainer_config import EightBits
from rlscale.families import FAMILIES

_COLUMNS = 16
"""What the columns of both factors of a product in FP8 are a multiple of."""


def eight_bits_are_there(context: CheckContext) -> Iterator[str]:
    """Of the policy and its critic: on GPUs, for the family, and with nothing that computes otherwise."""
    yield from of_policy_and_critic(context.config, partial(_problems, context))


def _problems(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    recipe = sections.trainer.fp8
    if recipe is EightBits.none:
        return
    key = f"{prefix}trainer.fp8={recipe.value}"
    if not context.on_gpus:
        yield (
            f"{key} needs Transformer Engine, which does not run on the CPU; use none (trainer.fake_quant=true with "
            "rollout.weights=fp8_block trains weights that are rounded to FP8 there)"
        )
        return
    if sections.model.dtype is DType.float32:
        yield f"{key} needs Transformer Engine, which trains models in 16 bits; set {prefix}model.dtype=bfloat16"
    if sections.model.lora is not None:
        yield f"{key} with {prefix}model.lora: adapters beside a base in FP8 have not been tried; leave one of them out"
    if sections.trainer.fake_quant:
        yield f"{key} with trainer.fake_quant=true: weights would be rounded twice; leave one of them out"
    if not prefix:
        yield from _of_architecture(context, key)


def _of_architecture(context: CheckContext, key: str) -> Iterator[str]:
    if context.architecture is None:
        return
    family = FAMILIES[str(context.architecture["model_type"])]
    if not family.of_transformer_engine:
        yield f"{key}: Transformer Engine has no layers of {family.model_type}; use none"
        return
    ranks = context.config.parallel.tensor
    split = (context.config.parallel.expert_tensor or 1) if context.experts else ranks
    for name, parts in (("hidden_size", 1), ("intermediate_size", ranks), ("moe_intermediate_size", split)):
        size = context.size(name)
        if size is not None and size % (_COLUMNS * parts):
            over = f" over {parts} ranks" if parts > 1 else ""
            yield f"{key}: {name}={size}{over} is no multiple of {_COLUMNS}, as products in FP8 need it; use none"


EIGHT_BITS_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (eight_bits_are_there,)
