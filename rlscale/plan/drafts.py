"""What the draft of engines that speculate takes besides the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlscale.config.composition.published_configs import architecture_of
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.speculation_config import Algorithm
from rlscale.families import FAMILIES
from rlscale.plan.model_shape import ModelShape


@dataclass(frozen=True)
class Draft:
    """Numbers of the draft of one engine."""

    parameters: int = 0
    cache_numbers: int = 0
    """That its caches hold for a token."""


def draft_of(config: Config, architecture: Mapping[str, Any]) -> Draft | None:
    """That of `rollout.speculation` beside a policy of this architecture, nothing without; None where it is unknown.

    A head's folder says of a model what it says of its layers; it holds projections and words of its own.
    """
    speculation = config.rollout.speculation
    if speculation.algorithm in (Algorithm.none, Algorithm.ngram):
        return Draft()
    if speculation.algorithm is Algorithm.mtp:
        own, family = ModelShape.of(architecture), FAMILIES[str(architecture["model_type"])]
        if not family.mtp:
            return None
        more = ModelShape.of(architecture, mtp=True).parameters - own.parameters
        return Draft(more, own.cache_numbers // (own.layers - own.delta_layers))  # it has attention
    try:
        found = architecture_of(ModelConfig(name="draft", path=speculation.draft))
    except UserError:
        return None
    if found.get("model_type") not in FAMILIES:
        return None
    shape = ModelShape.of(found)
    return Draft(shape.parameters, shape.cache_numbers)
