"""Can rlscale train this model, and can this kind of cluster hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.mtp import trained_mtp_is_there
from rlscale.config.errors import UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.schema.model_config import DType, ModelConfig
from rlscale.config.schema.trainer_config import Mtp
from rlscale.families import FAMILIES
from rlscale.families.config_file import problems
from rlscale.families.linears import adapter_parameters
from rlscale.families.tensors import parameter_count

TRAINING_BYTES = 16
"""Bytes of training per parameter: fp32 weight, gradient and two Adam moments."""

_LARGEST_RANGE = 10.0
"""A made model's `initializer_range` above this gives weights that no activation survives."""


def model_has_one_origin(context: CheckContext) -> Iterator[str]:
    """Either a folder or hub name, or a recipe for making it."""
    model = context.config.model
    if model.path is not None and model.create is not None:
        yield f"model.path={model.path} and model.create are both given; set one of them to null"


def architecture_is_known(context: CheckContext) -> Iterator[str]:
    """The trainer builds the architectures that it knows, and needs a config that says one of them as a whole."""
    architecture = context.architecture
    if architecture is None:
        return
    model = context.config.model
    where = f"model.path={model.path}" if model.path is not None else "model.create.architecture"
    lines = [*problems(architecture)] or [*FAMILIES[architecture["model_type"]].unsupported(architecture)]
    if model.path is None and model.create is not None:
        lines = [*_unknown_keys(model.create.architecture), *(lines or _made(architecture))]
    yield from (f"{where}: {line}" for line in lines)


def _unknown_keys(given: Mapping[str, Any]) -> Iterator[str]:
    """Keys of a model to be made that its family does not have: they would have no effect."""
    family = FAMILIES.get(str(given.get("model_type")))
    if family is None:
        return
    known = ["model_type", *family.keys]
    for key in given:
        if key not in known:
            hint = did_you_mean(nearest(key, known)) or ", so it would be ignored"
            yield f"{key} is not a key of {family.model_type}{hint}"


def _made(architecture: Mapping[str, Any]) -> Iterator[str]:
    """What an existing model may say and one that is made here must not. The config must be free of `problems`."""
    spread, words = architecture["initializer_range"], architecture["vocab_size"]
    if not 0 < spread <= _LARGEST_RANGE:
        yield f"initializer_range={spread}: must be above 0 and at most {_LARGEST_RANGE:g}"
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        given = architecture.get(key)
        for token in given if isinstance(given, list) else [given]:
            if token is not None and token >= words:
                yield f"{key}={token}: is beyond the vocabulary of {words} (vocab_size)"


def model_fits_the_cpu(context: CheckContext) -> Iterator[str]:
    """Training in memory that a CPU machine is allowed to fill."""
    config = context.config
    if context.on_gpus or config.cluster.memory_gb is None:
        return
    parameters = parameters_of(context)
    if parameters is None:
        return
    needed = training_gb(context, parameters) + engine_gb(context, parameters) + sum(beside_gb(context).values())
    if needed > config.cluster.memory_gb:
        layout = "moe_8gpu" if _has_experts(context) else "dense_8gpu"
        yield (
            f"model={config.model.name}: {parameters / 1e9:.3g}B parameters{_besides(context)} need {needed:.0f} GB to "
            f"train, but the CPU cluster allows cluster.memory_gb={config.cluster.memory_gb:g}; this model needs GPUs: "
            f"choose cluster=node8 parallel={layout} (or another GPU cluster) and what `plan --solve` finds to fit "
            f"there, or a smaller model"
        )


def parameters_of(context: CheckContext) -> float | None:
    """Parameters by the architecture, else as the model option says; None where neither is known."""
    if context.architecture is not None and not list(architecture_is_known(context)):
        return float(parameter_count(context.architecture))
    return context.config.model.parameters


def training_gb(context: CheckContext, parameters: float) -> float:
    """Gigabytes of training on one copy: the policy, a critic with its optimizer, and frozen weights."""
    config, needs = context.config, context.needs
    weight = _weight_bytes(config.model.dtype)
    trained = _trained(context, parameters)
    total = trained * TRAINING_BYTES + (parameters * weight if config.model.lora is not None else 0)
    if needs.critic:
        total += _parameters(config.critic.model, parameters) * TRAINING_BYTES
    if needs.reference and config.model.lora is None:  # else it is the base, which is there
        total += parameters * weight
    total += trained * weight * needs.kept_versions
    if needs.teacher:
        teacher = ModelConfig(name="teacher", path=config.teacher.path)
        total += (_parameters(teacher, parameters) if teacher.path is not None else parameters) * weight
    return total / 1e9


def _trained(context: CheckContext, parameters: float) -> float:
    """The policy's parameters that are trained, and in which its versions differ."""
    lora = context.config.model.lora
    if lora is None:
        return parameters + _predicting(context)
    if context.architecture is None:
        return 0.0  # a few thousandths, of a model that is not there yet
    return float(adapter_parameters(context.architecture, lora.rank, lora.targets))


def _predicting(context: CheckContext) -> int:
    """Parameters of the layer that predicts a token further, where it is trained; engines have no use for them."""
    frozen, architecture = context.config.trainer.mtp is Mtp.frozen, context.architecture
    if frozen or architecture is None or any(architecture_is_known(context)) or any(trained_mtp_is_there(context)):
        return 0
    return parameter_count(architecture, mtp=True) - parameter_count(architecture)


def engine_gb(context: CheckContext, parameters: float) -> float:
    """Gigabytes of the weights on one engine."""
    return parameters * _weight_bytes(context.config.model.dtype) / 1e9


def beside_gb(context: CheckContext) -> dict[str, float]:
    """Gigabytes of the weights on one engine of each model beside the policy that the run starts, where its size is
    known."""
    config, found = context.config, dict[str, float]()
    for name in (name for name, engines in context.sizes.beside.items() if engines):
        model = config.rollout.models[name]
        own = config.model if model.follows_policy else ModelConfig(name=name, path=model.path)
        if parameters := _parameters(own, 0.0):
            found[name] = parameters * _weight_bytes(model.dtype or config.model.dtype) / 1e9
    return found


def _weight_bytes(dtype: DType) -> int:
    return 4 if dtype is DType.float32 else 2


def _parameters(model: ModelConfig, otherwise: float) -> float:
    """Parameters of a model besides the policy's, as near as can be known."""
    try:
        architecture = read_architecture(model)
        return float(parameter_count(architecture)) if architecture is not None else model.parameters or otherwise
    except (UserError, KeyError, TypeError, ValueError):
        return otherwise  # its own check says what is wrong


def _besides(context: CheckContext) -> str:
    """The models that need memory besides the policy, in words."""
    others = (*context.needs.models[1:], *beside_gb(context))
    return f" and {', '.join(others)}" if others else ""


def _has_experts(context: CheckContext) -> bool:
    if context.architecture is not None:
        return context.experts > 0
    # Not downloaded yet: the names of mixtures say how many parameters are active (30B-A3B).
    return "-A" in (context.config.model.path or "")


MODEL_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    model_has_one_origin,
    model_fits_the_cpu,
)
