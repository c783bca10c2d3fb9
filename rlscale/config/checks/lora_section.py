"""Do the adapters of `model.lora` have linears to stand on, and does nothing else say what is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.schema.dtype import DType
from rlscale.config.schema.lora_config import LoraConfig
from rlscale.config.schema.trainer_config import Mtp
from rlscale.families import FolderError
from rlscale.families.config_file import complete
from rlscale.families.family import Form, dimensions
from rlscale.families.linears import is_of_expert, is_target, linear_names, linear_rules, module
from rlscale.families.served_form import WeightForm


def adapters_are_consistent(context: CheckContext) -> Iterator[str]:
    """With the rest of the configuration."""
    config = context.config
    lora = config.model.lora
    if context.needs.critic and config.critic.model.lora != lora:
        yield "critic.model.lora: a critic is trained as a whole; leave it out (model.lora is the policy's)"
    if lora is None:
        return
    if lora.dropout:
        yield (
            f"model.lora.dropout={lora.dropout:g}: what drops out is another policy than what sampled, so that "
            "not even the first step's ratio would be 1; set it to 0"
        )
    if lora.dtype not in (None, config.model.dtype, DType.float32):
        yield (
            f"model.lora.dtype={lora.dtype.name} with model.dtype={config.model.dtype.name}: adapters are trained in "
            "the model's type or in float32; set it to float32 or null"
        )
    if config.run.generate_only and lora.path is not None:
        yield (
            f"run.generate_only=true: engines serve a folder as it is, and model.lora.path={lora.path} is not in it; "
            "export the adapter merged, and name that folder as model.path"
        )
    if lora.targets is not None and not lora.targets:
        yield "model.lora.targets=[]: leaves nothing to train; name linears like '*.self_attn.*', or set it to null"
    if config.rollout.weights is not WeightForm.as_trained:
        yield (
            f"rollout.weights={config.rollout.weights.name}: the trainer does not know what merged codes are worth, "
            "so that the canary could not tell them from wrong ones; use as_trained, or leave model.lora out"
        )
    if config.trainer.mtp is Mtp.trained:
        yield "trainer.mtp=trained: with model.lora only adapters are trained; use frozen, or leave model.lora out"
    for key, given in (("trainer.frozen", config.trainer.frozen), ("optim.groups", config.optim.groups)):
        if given:
            yield f"{key} names parameters of the model, and with model.lora none of them is trained; leave {key} out"


def adapters_have_linears(context: CheckContext) -> Iterator[str]:
    """Of the model, whose config this needs."""
    lora = context.config.model.lora
    if lora is None or context.architecture is None:
        return
    try:
        config = complete(context.architecture)
    except FolderError:  # another check says what it lacks
        return
    yield from _patterns(lora, config)
    if context.config.parallel.tensor > 1:
        yield from _uncut(lora, config)
    yield from _some_experts(lora, config)


def _patterns(lora: LoraConfig, config: Mapping[str, Any]) -> Iterator[str]:
    """A pattern for nothing would be passed over."""
    names = [*linear_names(config, experts=False), *linear_names(config, experts=True)]
    for pattern in lora.targets or ():
        if not any(is_target(name, [pattern]) for name in names):
            guess = did_you_mean(nearest(pattern, [*linear_names(config, experts=False)]))
            yield f"model.lora.targets={pattern}: matches no linear that can have an adapter{guess}"


def _some_experts(lora: LoraConfig, config: Mapping[str, Any]) -> Iterator[str]:
    """Of a layer's experts all have adapters or none: they are one linear, and ranks have as many of them."""
    for rule in (rule for rule in linear_rules(config) if is_of_expert(rule) and lora.targets is not None):
        experts = range(dimensions(config)["experts"])
        for tensor in rule.hf:
            for layer in rule.numbers(config):
                names = [module(tensor.name.format(layer=layer, expert=expert)) for expert in experts]
                picked = [is_target(name, lora.targets) for name in names]
                if any(picked) and not all(picked):
                    one, other = names[picked.index(True)], names[picked.index(False)]
                    yield (
                        f"model.lora.targets: picks {one}, and not {other}; name a linear of all experts of a layer, "
                        "or of none"
                    )
                    return


def _uncut(lora: LoraConfig, config: Mapping[str, Any]) -> Iterator[str]:
    """Gate and up in one tensor: a rank has rows of both halves, which is no plain cut."""
    for rule in linear_rules(config):
        if rule.form is Form.gate_up and len(rule.hf) == 1 and not is_of_expert(rule):
            name = rule.hf[0].name.removesuffix(".weight")
            if any(is_target(name.format(layer=layer), lora.targets) for layer in rule.numbers(config)):
                yield (
                    f"model.lora.targets: {name.rpartition('.')[2]} holds gate and up in one tensor, whose adapter "
                    "cannot be split over parallel.tensor > 1; use parallel.tensor=1, or name other linears"
                )


LORA_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (adapters_are_consistent, adapters_have_linears)
