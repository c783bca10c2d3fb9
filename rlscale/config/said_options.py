"""What a configuration says of an option of SGLang for the policy's engines; a group's own options win."""

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
