"""Memory of the GPUs of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.schema import Config
from rlscale.plan.drafts import Draft
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.trainer_memory import CONTEXT, GIB

STATIC = 0.85
"""Share of the device that SGLang fills with weights and cache where `mem_fraction_static` is not given."""
GRAPHS = 2.0 * GIB
"""CUDA graphs, their activations and the logits of a batch."""


@dataclass(frozen=True)
class EngineMemory:
    """Bytes on each GPU of an engine."""

    weights: float
    cache: float
    """What is left for keys and values: the rest of the engine's share."""
    graphs: float
    context: float
    cached_tokens: float
    """Tokens that the whole engine's cache holds."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + max(self.cache, 0.0) + self.graphs + self.context

    @property
    def left_behind(self) -> float:
        """What stays on the device while the engine sleeps: context, workspaces, graphs."""
        return self.context + self.graphs / 2


def served_bytes(config: Config, shape: ModelShape) -> float:
    """The weights of a whole engine in the form of `rollout.weights`; norms and routers, a thousandth, as the rest."""
    number = config.model.dtype.bytes
    plain = shape.embedding * (1 if shape.tied else 2)
    return plain * number + (shape.parameters - plain) * config.rollout.served_form.bytes_per_weight(number)


def engine_memory(
    config: Config, shape: ModelShape, device_bytes: float, usable_bytes: float, draft: Draft | None = None
) -> EngineMemory:
    """The memory of one GPU of an engine, on devices of that size of which so much is left by a trainer asleep."""
    draft = draft or Draft()
    gpus, number = config.rollout.gpus_per_engine, config.model.dtype.bytes
    given = config.rollout.sglang.get("mem_fraction_static")
    weights = (served_bytes(config, shape) + draft.parameters * number) / gpus
    per_token = (shape.cache_numbers + draft.cache_numbers) * number / shape.cache_parts(gpus)
    # Where it is not given SGLang leaves room for its graphs on small devices, too.
    room = float(given) * device_bytes if given else min(STATIC * device_bytes, usable_bytes - GRAPHS - CONTEXT)
    cache = room - weights
    return EngineMemory(weights, cache, GRAPHS, CONTEXT, max(cache, 0.0) / per_token)
