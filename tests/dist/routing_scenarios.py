"""What the ranks of the pool run for routing replay. Called with (rank, world_size, address, port, ...)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scenarios import gathered, open_trainer

from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec

TOP_K = 2


def with_experts(batch: Batch, layers: int, experts: int, seed: int = 0) -> Batch:
    """The batch with random experts for every token; those of the first token and the last of each row are unknown."""
    random = np.random.default_rng(seed)
    shuffled = random.random((batch.tokens_total, layers, experts)).argsort(axis=-1)
    routed = shuffled[..., :TOP_K].astype(np.int16)
    routed[0] = routed[batch.offsets[1:] - 1] = -1
    return batch.with_column("routed_experts", routed)


def train_and_record(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    spec: TrainerSpec,
    iterations: list[list[RankShard]],
    first: bool,
) -> dict[str, Any]:
    """Train; metrics, gradients after the last iteration, and the choices of experts of every training pass.

    `first`: the log-probs are asked for beforehand, by a call of its own, and brought by the batch.
    """
    from rlscale.trainer.megatron.batch.routing import RoutingCounts

    trainer = open_trainer(rank, world_size, address, port, spec)
    chosen: list[tuple[int, np.ndarray]] = []
    add = RoutingCounts.add

    def spy(self: Any, layer: int, experts: Any, real: Any) -> None:
        chosen.append((layer, experts[real].numpy().copy()))
        add(self, layer, experts, real)

    RoutingCounts.add = spy  # type: ignore[method-assign]  # to see what the passes do, not to change it
    try:
        metrics = []
        for version, parts in enumerate(iterations):
            part = parts[trainer.data_parallel_rank()]
            if first:
                column = trainer.logprobs(part)
                part = RankShard(part.batch.with_column("old_logprobs", column), part.steps, part.row_ids)
            metrics.append(trainer.train_shard(part, version))
        return {"metrics": metrics, "gradients": gathered(trainer, gradients=True), "chosen": chosen}
    finally:
        RoutingCounts.add = add  # type: ignore[method-assign]
        trainer.close()


def train_without_a_pass(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, part: RankShard, other: RankShard
) -> str:
    """What is said when the old log-probs that a part brings are those of other micro-batches."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        trainer.logprobs(other)
        column = np.zeros(part.batch.tokens_total, np.float32)
        trainer.train_shard(RankShard(part.batch.with_column("old_logprobs", column), part.steps, part.row_ids), 0)
    except ValueError as error:
        return str(error)
    finally:
        trainer.close()
    return ""
