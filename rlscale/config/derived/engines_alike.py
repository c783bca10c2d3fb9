"""The policy's engines by groups that are alike, each as the configuration of a fleet of nothing else."""

from __future__ import annotations

from dataclasses import replace

from rlscale.config.schema import Config


def engines_alike(config: Config) -> dict[str, Config]:
    """By the name of the group; without groups all of them, as "engine"."""
    rollout, found = config.rollout, {}
    for name, group in rollout.engine_groups.items():
        own = replace(
            rollout,
            engine_groups={},
            engines=group.engines,
            gpus_per_engine=group.gpus_per_engine or rollout.gpus_per_engine,
            sglang={**rollout.sglang, **group.sglang},
        )
        found[name] = replace(config, rollout=own)
    return found or {"engine": config}
