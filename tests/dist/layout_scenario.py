"""What the ranks of the pool run for the matrix of layouts. Called with (rank, world_size, address, port, ...)."""

from __future__ import annotations

from typing import Any

from scenarios import gathered, open_trainer

from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec


def train(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, iterations: list[list[RankShard]]
) -> dict[str, Any]:
    """Log-probs of the first parts, then train: metrics, gradients after the first iteration, weights after the last.

    `logprobs` is None on ranks that hand out none.
    """
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        own = trainer.data_parallel_rank()
        logprobs = trainer.logprobs(iterations[0][own])
        metrics, gradients = [], {}
        for number, parts in enumerate(iterations):
            metrics.append(trainer.train_shard(parts[own], number))
            if number == 0:
                if spec.trainer.distributed_optimizer:
                    gather_gradients(trainer)
                gradients = gathered(trainer, gradients=True)
        return {"logprobs": logprobs, "metrics": metrics, "gradients": gradients, "weights": gathered(trainer)}
    finally:
        trainer.close()


def gather_gradients(trainer: Any) -> None:
    """Put the shards of gradients together that the distributed optimizer leaves on each data-parallel rank."""
    import torch.distributed as dist

    for chunk in trainer._roster.trained("policy").model.parallel_chunks:
        for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers):
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                shards = bucket.grad_data.chunk(group.size())
                dist.all_gather(list(shards), shards[group.rank()].clone(), group=group)
