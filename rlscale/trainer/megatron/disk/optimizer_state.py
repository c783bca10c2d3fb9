"""The optimizer's state in a checkpoint, so that any layout reads what any other wrote.

Megatron's own depends on the layout: names carry the number of the optimizer (one without expert parallelism, two with
it), the distributed optimizer keeps its parameters where the plain one keeps none, and lists of parameter groups are as
long as the rank has groups. Here the names are those of the model, the groups are always the running optimizer's (a
resumed run follows its configuration), and the count of steps stands by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import LocalNonpersistentObject, ShardedBase
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

_METADATA = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}
_STATE = "optimizer.state."
_MAIN = f"{_STATE}fp32_param."
"""Start of the names of the parameters that the optimizer itself keeps."""
_LOCAL = ("param_groups", "param_state_sharding_type")


def state_to_save(megatron: Any, model_state: dict[str, Any]) -> dict[str, Any]:
    """The state of Megatron's (chained) optimizer as shards, and `step`. Collective."""
    return {"state": _sharded(megatron, model_state, loading=False), "step": _steps_made(megatron)}


def state_to_load(megatron: Any, model_state: dict[str, Any], saved: Collection[str]) -> dict[str, Any]:
    """The shards to be read from a checkpoint that holds the names `saved`."""
    state = _sharded(megatron, model_state, loading=True)
    for shard in _shards(state):
        if shard.key.startswith(_MAIN) and shard.key not in saved:
            # Saved without the distributed optimizer in float32: the model's own parameters are the optimizer's.
            shard.key = shard.key.removeprefix(_MAIN)
    return {"state": state}


def load_state(megatron: Any, loaded: dict[str, Any]) -> None:
    """Give the optimizer what was read into `state_to_load`."""
    state = loaded["state"]
    for number, chained in enumerate(megatron.chained_optimizers):
        part = state if len(megatron.chained_optimizers) == 1 else state[number]
        _set_steps_made(chained, part.get("optimizer", part), loaded["step"])
        chained.load_state_dict(part)


def _sharded(megatron: Any, model_state: dict[str, Any], *, loading: bool) -> dict[str, Any]:
    state: dict[str, Any] = megatron.sharded_state_dict(model_state, is_loading=loading, metadata=_METADATA)
    for part in state.values() if len(megatron.chained_optimizers) > 1 else (state,):
        for holder in (part, part.get("optimizer", part)):
            for name in _LOCAL:
                if name in holder and not isinstance(holder[name], LocalNonpersistentObject):
                    holder[name] = LocalNonpersistentObject(_plain(holder[name]))
        part.get("optimizer", part).get("state", {}).pop("common_step", None)
    for shard in _shards(state):
        shard.key = shard.key.replace(f"{_STATE}param.", _MAIN, 1)
    return state


def _plain(value: Any) -> Any:
    """Parameter groups without the wrappers that Megatron put into them."""
    if not isinstance(value, list):
        return value
    return [
        {name: item.unwrap() if isinstance(item, LocalNonpersistentObject) else item for name, item in group.items()}
        for group in value
    ]


def _shards(state: dict[str, Any]) -> list[Any]:
    return [value for value in nested_values(state) if isinstance(value, ShardedBase)]


def _steps_made(megatron: Any) -> int:
    """Steps that were made: skipped ones do not count. One number for all ranks, also those that train nothing."""
    steps = [0]
    for chained in megatron.chained_optimizers:
        inner = getattr(chained, "optimizer", None)
        if inner is not None:
            steps += [int(group.get("step") or 0) for group in inner.param_groups]
            steps += [int(values["step"]) for values in inner.state.values() if "step" in values]
    every: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(every, max(steps))
    return max(every)


def _set_steps_made(chained: Any, inner: dict[str, Any], step: int) -> None:
    """Put the count where this optimizer looks for it: beside the state of its parameters, or in its groups."""
    counts_per_parameter = any("step" in values for values in chained.optimizer.state.values())
    if counts_per_parameter and not isinstance(chained, DistributedOptimizer):
        inner["state"]["common_step"] = torch.tensor(float(step))
    else:
        for group in inner["param_groups"]:
            group["step"] = step
