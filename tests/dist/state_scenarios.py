"""What the ranks run for the tests of copies of their state; called as the functions of `scenarios` are."""

from __future__ import annotations

from typing import Any

from driven import state
from scenarios import open_trainer

from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec

Copies = list[tuple[Any, tuple[bytes, Any]]]
"""Of each rank its key, and what it has copied."""


def train_and_copy_halfway(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, iterations: list[list[RankShard]]
) -> dict[str, Any]:
    """Train on all iterations, with a copy after the first half: the key, the copy, weights and last metrics.

    Of ranks with the same key each copies a part.
    """
    import torch.distributed as dist

    trainer = open_trainer(rank, world_size, address, port, spec, moves=True)
    try:
        keys: list[Any] = [None] * world_size
        dist.all_gather_object(keys, trainer.state_key())
        same = [number for number, key in enumerate(keys) if key == keys[rank]]
        for number, parts in enumerate(iterations):
            if number == len(iterations) // 2:
                trainer.sleep()
                copy = trainer.copy_state((same.index(rank), len(same)))
                trainer.wake()
            metrics = trainer.train_shard(parts[trainer.data_parallel_rank()], number)
        return {"key": keys[rank], "copy": copy, "weights": state(trainer), "metrics": metrics}
    finally:
        trainer.close()


def go_on(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    spec: TrainerSpec,
    iterations: list[list[RankShard]],
    copies: Copies,
) -> dict[str, Any]:
    """Begin with the copies of others and train on all iterations: weights, last metrics, steps and state before."""
    trainer = open_trainer(rank, world_size, address, port, spec, moves=True)
    try:
        parts = [part for key, (_, part) in copies if key == trainer.state_key()]
        trainer.put_state(copies[rank][1][0], *parts)
        begun = {"steps": trainer.steps, "again": trainer.copy_state((0, 1))[1]}
        for number, shards in enumerate(iterations, len(iterations)):
            metrics = trainer.train_shard(shards[trainer.data_parallel_rank()], number)
        return {"weights": state(trainer), "metrics": metrics, **begun}
    finally:
        trainer.close()
