"""Which trainer ranks have the same state, so that one can stand in for another."""

from __future__ import annotations

from collections import Counter

from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config


def distinct_states(config: Config) -> Counter[tuple[int, ...]]:
    """The states of a run's ranks, each with how many ranks have it.

    Ranks differ by their place in the model and in its experts; where the optimizer is distributed, all do that share
    a place.
    """
    parallel, sizes = config.parallel, Sizes.of(config)
    tensor, expert, within = parallel.tensor, parallel.expert, parallel.expert_tensor or 1
    of_stage = sizes.trainer_ranks // max(parallel.pipeline, 1)
    alone = _distributes_optimizer(config) and of_stage > tensor
    return Counter(
        (rank,) if alone else (rank // of_stage, rank % tensor, rank % within, rank // within % expert)
        for rank in range(sizes.trainer_ranks)
    )


def copies_state(config: Config) -> bool:
    """Whether the trainer's state is copied in memory: as asked, or where each rank's state is another's too."""
    if config.checkpoint.in_memory is not None:
        return config.checkpoint.in_memory
    return min(distinct_states(config).values(), default=1) > 1


def fewer_can_begin(config: Config) -> bool:
    """Whether fewer copies of the model have what more of them had: a checkpoint that was written on the way fits any
    number of them; copies in memory do where no rank's part depends on how many ranks there are."""
    saves = config.checkpoint.every > 0 or config.checkpoint.every_s is not None
    return saves or (copies_state(config) and not _distributes_optimizer(config))


def _distributes_optimizer(config: Config) -> bool:
    trainers = [config.trainer, *([config.critic.trainer] if "critic" in Sizes.of(config).models else [])]
    return any(one.distributed_optimizer for one in trainers)
