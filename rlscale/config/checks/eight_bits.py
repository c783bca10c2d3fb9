"""Can the products of the trainer be made in FP8 (`trainer.fp8`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.schema.model_config import DType, ModelConfig
from rlscale.config.schema.trainer_config import EightBits
from rlscale.families import FAMILIES
from rlscale.families.config_file import complete
from rlscale.families.split_linears import not_multiple


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
    if "moe" in (sections.trainer.megatron.get("recompute_modules") or ()):
        yield (
            f"{key} with {prefix}trainer.megatron.recompute_modules=[moe]: experts would be computed again in 16 bits; "
            "use trainer.recompute=full"
        )
    yield from _of_architecture(context, sections.model, recipe, key)


def _of_architecture(context: CheckContext, model: ModelConfig, recipe: EightBits, key: str) -> Iterator[str]:
    architecture = context.architecture_of(model)
    if architecture is None or str(architecture.get("model_type")) not in FAMILIES:
        return
    family = FAMILIES[str(architecture["model_type"])]
    if not family.of_transformer_engine:
        yield f"{key}: Transformer Engine has no layers of {family.model_type}; use none"
        return
    parallel = context.config.parallel
    ranks = parallel.tensor, parallel.expert_tensor or 1
    if problem := not_multiple(complete(architecture), recipe.multiple, *ranks):
        yield f"{key}: {problem}; use another layout, or none"


EIGHT_BITS_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (eight_bits_are_there,)
