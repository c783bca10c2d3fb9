"""The groups of `optim.groups` as Megatron's optimizer wants them."""

from __future__ import annotations

from collections.abc import Callable

from megatron.core.optimizer import OptimizerConfig, get_standard_config_overrides
from megatron.core.optimizer.optimizer_config import ParamKey, ParamPredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride
from torch.nn import Parameter

from rlscale.config.optim_groups import OptimGroup, read_groups
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.model.named_parameters import NamedParameters

_Overrides = dict[ParamKey, ParamGroupOverride]


def overrides_of(model: Model, optim: OptimConfig, config: OptimizerConfig, section: str) -> _Overrides:
    """Megatron's standard overrides (norms and biases do not decay) and those of `optim.groups`.

    Megatron puts parameters with the same overrides into one group and finds a group of a checkpoint by its multiples
    alone; so a value is set only where it differs, and never without its multiple. Collective if there are groups.
    UserError for a pattern that does not fit.
    """
    standard: _Overrides = get_standard_config_overrides(config)
    if not optim.groups:
        return standard
    parameters = NamedParameters(model.bare, model.weights, model.groups)
    groups = read_groups(optim.groups)
    group_of: dict[Parameter, OptimGroup] = {}
    for group in groups:
        matching = parameters.matching(group.pattern, f"{section}.groups.{group.name}.pattern")
        group_of.update(dict.fromkeys(matching, group))
    overrides, decaying = dict(standard), _decaying(model, standard)
    for group in groups:
        own = {parameter for parameter, last in group_of.items() if last == group}
        _add(overrides, f"{group.name}: learning rate", _rate(group, optim), own)
        _add(overrides, f"{group.name}: weight decay", _decay(group, optim), own & decaying)
    return overrides


def _decaying(model: Model, standard: _Overrides) -> set[Parameter]:
    """Parameters that Megatron lets decay."""
    never = [key for key, override in standard.items() if "wd_mult" in override]
    named = (pair for chunk in model.bare for pair in chunk.named_parameters())
    return {parameter for name, parameter in named if not any(key.matches(parameter, name) for key in never)}


def _rate(group: OptimGroup, optim: OptimConfig) -> ParamGroupOverride:
    if group.lr_mult == 1:
        return ParamGroupOverride()
    lr, least = optim.lr * group.lr_mult, optim.min_lr * group.lr_mult
    return ParamGroupOverride(max_lr=lr, min_lr=least, lr_mult=group.lr_mult)


def _decay(group: OptimGroup, optim: OptimConfig) -> ParamGroupOverride:
    if group.weight_decay is None or group.weight_decay == optim.weight_decay:
        return ParamGroupOverride()
    return ParamGroupOverride(wd_mult=group.weight_decay / optim.weight_decay)


def _add(overrides: _Overrides, name: str, override: ParamGroupOverride, parameters: set[Parameter]) -> None:
    if override:
        overrides[ParamKey(predicate=ParamPredicate(name, _among(parameters)))] = override


def _among(parameters: set[Parameter]) -> Callable[[Parameter], bool]:
    return lambda parameter: parameter in parameters
