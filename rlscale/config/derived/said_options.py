"""What a configuration says of the policy's engines, by the keys that say it: what a group says of its own wins."""

from __future__ import annotations

from typing import Any

from rlscale.config.schema.rollout_config import RolloutConfig

_NOTHING = object()


def said_options(rollout: RolloutConfig, name: str, otherwise: Any = _NOTHING) -> dict[str, Any]:
    """Every value that some engine is started with for the option, by the key that says it.

    `otherwise`: the value of engines of which nothing is said; without it they are left out.
    """
    found = {}
    groups = {f"rollout.engine_groups.{group}.sglang": one.sglang for group, one in rollout.engine_groups.items()}
    for key, own in (groups or {"rollout.sglang": rollout.sglang}).items():
        section = key if name in own else "rollout.sglang"
        found[f"{section}.{name}"] = own.get(name, rollout.sglang.get(name, otherwise))
    return {key: value for key, value in found.items() if value is not _NOTHING}


def said_gpus(rollout: RolloutConfig) -> dict[str, int]:
    """GPUs of an engine, by every key that says it of some."""
    own = {f"rollout.engine_groups.{name}": one.gpus_per_engine for name, one in rollout.engine_groups.items()}
    return {
        f"{'rollout' if gpus is None else key}.gpus_per_engine": gpus or rollout.gpus_per_engine
        for key, gpus in (own or {"rollout": rollout.gpus_per_engine}).items()
    }
