"""The entries of `optim.groups`: parameters by a pattern, and what their optimizer does differently from the rest's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from rlscale.config.nearest import did_you_mean, nearest


@dataclass(frozen=True)
class OptimGroup:
    """Parameters that are trained with other values than the rest."""

    name: str
    """What the user calls them."""
    pattern: str
    """Their names in Hugging Face's form, `*` for anything."""
    lr_mult: float = 1.0
    """Their learning rate at every step, as a multiple of the others'."""
    weight_decay: float | None = None
    """Their decoupled weight decay; None is that of the others. Norms and biases never decay."""


_KEYS = tuple(field.name for field in fields(OptimGroup) if field.name != "name")


def read_groups(groups: Mapping[str, Any]) -> list[OptimGroup]:
    """The groups in their order. The values must have passed `group_problems`."""
    return [OptimGroup(name, **values) for name, values in groups.items()]


def group_problems(groups: Mapping[str, Any], key: str, weight_decay: float) -> Iterator[str]:
    """What is wrong with the entries of the section `key`, a line each; `weight_decay` is that of the others."""
    for name, values in groups.items():
        here = f"{key}.{name}"
        problems = list(_entry_problems(values, here, key, weight_decay))
        yield from problems
        if not problems and values.get("lr_mult", 1) == 1 and values.get("weight_decay") is None:
            yield f"{here} changes nothing: give lr_mult or weight_decay, or leave it out"


def _entry_problems(values: Any, here: str, key: str, weight_decay: float) -> Iterator[str]:
    if not isinstance(values, Mapping):
        yield f"{here}={values}: must be a mapping with pattern, and lr_mult or weight_decay"
        return
    for unknown in (given for given in values if given not in _KEYS):
        yield f"{here}.{unknown}: unknown key{did_you_mean(nearest(str(unknown), _KEYS))}"
    pattern = values.get("pattern")
    if not isinstance(pattern, str) or not pattern:
        yield f"{here}.pattern: give a pattern of parameter names, like 'model.layers.*.mlp.gate.weight'"
    mult, decay = values.get("lr_mult", 1.0), values.get("weight_decay")
    if not _number(mult) or mult <= 0:
        yield f"{here}.lr_mult={mult}: must be above 0; trainer.frozen leaves parameters as they are"
    if decay is not None and (not _number(decay) or decay < 0):
        yield f"{here}.weight_decay={decay}: must be at least 0"
    elif decay and not weight_decay:
        # Megatron knows a group's weight decay as a multiple of the others'.
        section = key.rpartition(".")[0]
        yield f"{here}.weight_decay={decay} needs {section}.weight_decay above 0; set that, and 0 for other groups"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
