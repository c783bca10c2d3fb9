"""The process groups of a rank, and where the rank stands in them."""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from rlscale.config.errors import UserError
from rlscale.platform.device import Platform
from rlscale.platform.rendezvous import store_at
from rlscale.trainer.megatron.ranks.slicing import Slicing
from rlscale.trainer.trainer_spec import TrainerSpec

TIMEOUT = datetime.timedelta(minutes=30)
"""A rank that waits longer than this for another gives up."""


@dataclass(frozen=True)
class Ranks:
    """Sizes and ranks of the parallel groups of this process. Build it with `join`."""

    slicing: Slicing
    """How this rank's tokens are cut out of a micro-batch."""
    tensor_group: Any
    """Ranks that share the heads and the vocabulary."""
    context_group: Any
    """Ranks that share each sequence."""
    data_context_group: Any
    """Ranks that see different tokens."""
    pipeline_group: Any
    """Stages of the model."""
    data_rank: int
    """Which part of a batch this rank computes."""
    data_size: int
    """Parts of a batch."""
    first_stage: bool
    """Whether this rank has the embedding."""
    last_stage: bool
    """Whether this rank has the logits."""

    @property
    def outputs(self) -> bool:
        """Whether this rank is the one of its data-parallel part that hands out results."""
        return self.last_stage and self.tensor_group.rank() == 0 and self.slicing.context_rank == 0


def join(spec: TrainerSpec, platform: Platform, rank: int, world_size: int, address: str, port: int) -> Ranks:
    """Meet the other ranks at address:port and form Megatron's groups. UserError when the sizes do not fit."""
    parallel = spec.parallel
    model_ranks = parallel.tensor * parallel.pipeline * parallel.context
    if model_ranks * spec.data_parallel != world_size:
        raise UserError(
            f"parallel.tensor x pipeline x context x data = {model_ranks * spec.data_parallel}, "
            f"but there are {world_size} trainer ranks"
        )
    store = store_at(address, port, rank, world_size, TIMEOUT)
    dist.init_process_group(
        platform.backend,
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
        device_id=platform.device if platform.is_cuda else None,
    )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline if parallel.pipeline > 1 else None,
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=parallel.expert_tensor or 1,
        distributed_timeout_minutes=int(TIMEOUT.total_seconds() // 60),
    )
    ranks = _ranks(spec)
    _seed(spec.seed)
    return ranks


def leave() -> None:
    """Give up the groups and the connection to the other ranks."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def _ranks(spec: TrainerSpec) -> Ranks:
    tensor, context = parallel_state.get_tensor_model_parallel_group(), parallel_state.get_context_parallel_group()
    pipeline = parallel_state.get_pipeline_model_parallel_group()
    share = tensor.size() if spec.parallel.sequence else 1
    return Ranks(
        slicing=Slicing(context.size(), context.rank(), share, spec.trainer.fp8.multiple),
        tensor_group=tensor,
        context_group=context,
        data_context_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        pipeline_group=pipeline,
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        first_stage=pipeline.rank() == 0,
        last_stage=pipeline.rank() == pipeline.size() - 1,
    )


def _seed(seed: int) -> None:
    """Seed everything that draws at random; Megatron makes it differ between tensor- and pipeline-parallel ranks."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed + 100 * parallel_state.get_pipeline_model_parallel_rank())
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
