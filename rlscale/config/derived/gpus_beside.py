"""Which GPUs the engines of `rollout.models` get, of those that the policy's engines leave."""

from __future__ import annotations

from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config


def first_gpus(config: Config, sizes: Sizes) -> tuple[dict[str, list[int]], int]:
    """By the name of the model the first GPU of each engine, and how many the engines of the run need in all.

    GPUs are counted from the first of the engines' (`cluster.rollout_gpus`, `rollout_nodes`). One engine's follow each
    other; what is no larger than a machine lies on one.
    """
    taken, found, per_node = sizes.engine_gpus, dict[str, list[int]](), config.cluster.gpus_per_node
    for name, engines in sizes.beside.items():
        size, found[name] = config.rollout.models[name].gpus_per_engine, []
        for _ in range(engines):
            if config.cluster.rollout_nodes and size <= per_node and taken % per_node + size > per_node:
                taken += per_node - taken % per_node
            found[name].append(taken)
            taken += size
    return found, taken
