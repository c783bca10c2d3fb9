"""From groups to what each data-parallel rank trains on: rows, steps, micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.config.derived.sizes import Sizes
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.schema import Config
from rlscale.config.schema.parallel_config import ParallelConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.packing import CostModel, Padding, Plan, plan
from rlscale.data.batches.rank_shard import RankShard, joined, split
from rlscale.data.sample import Group
from rlscale.families.tensors import visited_parameters


def build_batch(groups: Sequence[Group], config: Config) -> Batch:
    """The batch of one iteration as it was collected: no advantages and no loss weights yet.

    `trainer.preparation.prepare` adds those, once the columns that it reads (`config.needs`) were computed.
    """
    return Batch.from_groups(groups, steps=config.algo.steps_per_iteration)


def divide(batch: Batch, config: Config, copies: int | None = None) -> tuple[list[RankShard], Plan]:
    """One part per data-parallel rank, and the plan by which the batch was divided.

    `copies`: how many of those there are, where it is not as configured. The plan depends on lengths and steps alone:
    `split(batch, plan)` divides the batch again once it has more columns.
    """
    parallel = config.parallel
    shares = parallel.tensor if parallel.sequence else 1
    padding = Padding.of_layout(parallel.context, shares, config.trainer.fp8.multiple)
    interleaved = parallel.pipeline > 1 and parallel.virtual_pipeline is not None
    division = plan(
        batch.lengths,
        batch.column("step"),
        Sizes.of(config).data_parallel if copies is None else copies,
        config.trainer.max_tokens_per_microbatch,
        padding.row,
        total=padding.total,
        multiple=parallel.pipeline if interleaved else 1,
        cost=_cost(config),
        lockstep=_experts_span_copies(parallel),
    )
    return split(batch, division), division


def divide_again(shards: Sequence[RankShard], config: Config, copies: int) -> list[RankShard]:
    """The shards of a whole batch, as that batch is divided for another number of data-parallel ranks."""
    return divide(joined(shards), config, copies)[0]


def _experts_span_copies(parallel: ParallelConfig) -> bool:
    """Whether ranks that compute different micro-batches wait for each other in every layer, to exchange its tokens.

    Megatron makes a group of consecutive ranks of a stage for the experts, and one for each copy of the model.
    """
    together = parallel.expert * (parallel.expert_tensor or 1)
    return parallel.tensor * parallel.context % together != 0


def _cost(config: Config) -> CostModel | None:
    """What a row costs on the policy's model; None, the default, where its sizes cannot be read."""
    architecture = read_architecture(config.model)
    if architecture is None:
        return None
    layers, heads = int(architecture["num_hidden_layers"]), int(architecture["num_attention_heads"])
    head = (int(architecture["qk_head_dim"]) + int(architecture["v_head_dim"])) // 2
    return CostModel.of_transformer(visited_parameters(architecture), layers, heads, head)
