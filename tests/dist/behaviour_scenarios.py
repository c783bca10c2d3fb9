"""What the ranks of the tests of `algo.old_logprobs=behaviour` run; called as the functions of `scenarios` are."""

from __future__ import annotations

from typing import Any

from scenarios import gathered, open_trainer

from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec


def train_and_look_back(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    spec: TrainerSpec,
    iterations: list[list[RankShard]],
    parts: list[RankShard],
    folder: str,
) -> dict[str, Any]:
    """Train and save, with the log-probs of `parts` by each version on the way and by those that they name at the end.

    Weights are given as they were before that last pass and after it. Training goes on while the checkpoint is written.
    """
    trainer = open_trainer(rank, world_size, address, port, spec, moves=True)
    try:
        own = trainer.data_parallel_rank()
        by_version = [trainer.logprobs(parts[own])]
        for version, iteration in enumerate(iterations):
            trainer.train_shard(iteration[own], version)
            by_version.append(trainer.logprobs(parts[own]))
        before = gathered(trainer)
        trainer.sleep()
        behaviour = trainer.logprobs(parts[own], "behaviour")
        after = gathered(trainer)
        trainer.begin_save(folder)
        trainer.train_shard(iterations[0][own], len(iterations))  # meanwhile
        trainer.finish_save()
        return {"by_version": by_version, "behaviour": behaviour, "before": before, "after": after}
    finally:
        trainer.close()


def resume_and_train(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    spec: TrainerSpec,
    parts: list[RankShard],
    folder: str,
    version: int,
) -> dict[str, float]:
    """Metrics of an iteration on `parts` from a checkpoint of `version` on."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        trainer.load(folder)
        metrics: dict[str, float] = trainer.train_shard(parts[trainer.data_parallel_rank()], version)
        return metrics
    finally:
        trainer.close()
