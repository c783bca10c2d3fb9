"""Can the trainer keep the frozen model below adapters as codes and scales (`model.lora.base`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.families import FAMILIES, FolderError
from rlscale.families.config_file import complete
from rlscale.families.family import dimensions
from rlscale.families.linears import is_of_expert, linear_rules, module
from rlscale.families.served_form import ServedForm, WeightForm

_KEPT = (WeightForm.int4, WeightForm.mxfp8)


def base_can_be_kept(context: CheckContext) -> Iterator[str]:
    """In that form, and beside everything else that reads the base."""
    config = context.config
    if config.model.lora is None or config.model.lora.base is WeightForm.as_trained:
        return
    base, instead = f"model.lora.base={config.model.lora.base.value}", "or leave model.lora.base out"
    if config.model.lora.base not in _KEPT:
        yield (
            f"{base}: its scales reach over rows of several linears and tensor-parallel ranks, which are not kept "
            f"together; use int4 or mxfp8, {instead}"
        )
    if config.run.generate_only:
        yield f"{base}: with run.generate_only=true engines serve a folder as it is, uncoded; leave one of them out"
    if config.serves_adapters:
        yield f"{base}: with weights.lora=adapter engines hold the base as it was; set weights.lora=merged, {instead}"
    if context.needs.teacher:
        yield f"{base}: a teacher's weights may take the place of the policy's, which are not there then; {instead}"


def columns_fit_the_base(context: CheckContext) -> Iterator[str]:
    """On each rank they are whole groups that share a scale."""
    lora, parallel = context.config.model.lora, context.config.parallel
    if lora is None or lora.base not in _KEPT or context.architecture is None:
        return
    try:
        config = complete(context.architecture)
    except FolderError:  # another check says what it lacks
        return
    family, form, sizes = FAMILIES[str(config["model_type"])], ServedForm(lora.base), dimensions(config)
    if family.latent or family.delta_net:
        yield (
            f"model.lora.base={lora.base.value}: the attention of a {family.model_type} reads its weights in other "
            "ways than by a linear's product; leave model.lora.base out"
        )
        return
    group = form.quantisation.columns if form.quantisation is not None else 1
    for rule in linear_rules(config):
        ranks = (parallel.expert_tensor or 1) if is_of_expert(rule) else parallel.tensor
        for tensor in rule.hf:
            columns = sizes[tensor.shape[1]] // (ranks if rule.split == 1 else 1)
            if columns % group:
                name = module(tensor.name).rpartition(".")[2]
                yield (
                    f"model.lora.base={lora.base.value}: {name} has {columns} columns on each rank, which {group} does "
                    "not divide; leave model.lora.base out"
                )
                return


BASE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (base_can_be_kept, columns_fit_the_base)
