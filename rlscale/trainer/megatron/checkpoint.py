"""Megatron's distributed checkpoint of a rank: model, optimizer, schedule and random state.

Written by torch's own file writer in this process: Megatron's starts further processes, which inside a Ray actor would
import the actor's `__main__`. The files are the same; Megatron reads them.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedStateDict
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint import save as torch_save

from rlscale.config.errors import UserError
from rlscale.trainer.megatron.model import Model
from rlscale.trainer.megatron.optimizer import Optimizer

_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}


class InProcessWriter(SaveShardedStrategy):
    """Writes one file per rank, here and now. The format is Megatron's `torch_dist`, version 1."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Objects are written beside tensors."""
        return True

    def save(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: str | Path) -> None:
        """Write this rank's shards; collective."""
        state, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        torch_save(
            mcore_to_pyt_state_dict(state, False),
            storage_writer=FileSystemWriter(checkpoint_dir, single_file_per_rank=True, thread_count=1),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )


def save_checkpoint(folder: str | Path, model: Model, optimizer: Optimizer) -> None:
    """Write into a folder that is made if missing. Collective; whole when every rank has returned.

    OSError when the disk refuses.
    """
    model.finish_gathering()
    if dist.get_rank() == 0:
        Path(folder).mkdir(parents=True, exist_ok=True)
    dist.barrier()
    state = _state(model, optimizer, loading=False)
    state["random"] = _random_state(_get_random_state())
    state["layout"] = _layout()
    dist_checkpointing.save(state, str(folder), sharded_strategy=InProcessWriter())
    dist.barrier()


def holds_checkpoint(folder: str | Path) -> bool:
    """Whether `save_checkpoint` wrote into the folder."""
    return (Path(folder) / "metadata.json").is_file()


def load_checkpoint(folder: str | Path, model: Model, optimizer: Optimizer) -> None:
    """Take model, optimizer, schedule and random state from a folder. Collective.

    A checkpoint of another layout is read too; the random state then stays as it is. UserError if it does not fit.
    """
    if not holds_checkpoint(folder):
        raise UserError(f"{folder} is no trainer checkpoint (no metadata.json)")
    common = dist_checkpointing.load_common_state_dict(str(folder))
    state = _state(model, optimizer, loading=True)
    same_layout = common.get("layout") == _layout()
    if same_layout:
        state["random"] = _random_state(None)
    try:
        loaded = dist_checkpointing.load(state, str(folder))
    except (dist_checkpointing.core.CheckpointingException, KeyError) as error:
        raise UserError(f"{folder} does not fit this model and layout: {error}") from error
    for number, chunk in enumerate(model.bare):
        chunk.load_state_dict(loaded[f"model{number}"], strict=True)
    _count_from_zero(loaded["optimizer"])
    optimizer.megatron.load_state_dict(loaded["optimizer"])
    optimizer.schedule.load_state_dict(loaded["schedule"])
    if same_layout:
        _set_random_state(loaded["random"][0])


def _state(model: Model, optimizer: Optimizer, *, loading: bool) -> dict[str, Any]:
    state: dict[str, Any] = {f"model{number}": chunk.sharded_state_dict() for number, chunk in enumerate(model.bare)}
    state["optimizer"] = optimizer.megatron.sharded_state_dict(state, is_loading=loading, metadata=_METADATA)
    if not loading:
        state["schedule"] = optimizer.schedule.state_dict()
    return state


def _count_from_zero(state: Any) -> None:
    """A checkpoint from before the first step has no step count (Megatron leaves a zero out): put it back in."""
    if not isinstance(state, dict):
        return
    per_parameter = state.get("state")
    if "param_groups" in state and isinstance(per_parameter, dict):
        if per_parameter and not any("step" in values for values in per_parameter.values() if isinstance(values, dict)):
            per_parameter.setdefault("common_step", torch.zeros((), dtype=torch.float32))
        return
    for value in state.values():
        _count_from_zero(value)


def _layout() -> dict[str, int]:
    """What the random state depends on."""
    return {
        "tensor": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline": parallel_state.get_pipeline_model_parallel_world_size(),
        "world": dist.get_world_size(),
    }


def _random_state(value: Any) -> ShardedObject:
    """The random state of each rank as one shard of an object over all ranks."""
    return ShardedObject("random", [value], (dist.get_world_size(),), (dist.get_rank(),), replica_id=0)


def _get_random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "tracker": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(state["tracker"])
