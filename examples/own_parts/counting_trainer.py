"""A trainer that only counts: a run with it measures generation, rewards and data while the weights stay."""

from __future__ import annotations

from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.megatron.trainer import MegatronTrainer
from rlscale.trainer.trainer_spec import TrainerSpec


class CountingTrainer(MegatronTrainer):
    """Everything is Megatron's but the step."""

    def __init__(self, spec: TrainerSpec, rank: int, world_size: int, local_rank: int, longest: int = 0) -> None:
        """`longest`: with another number than 0, samples that are longer (prompt included) are counted apart."""
        super().__init__(spec, rank, world_size, local_rank)
        self._longest = longest

    def train_shard(
        self, shard: RankShard, version: int, force_old: bool = False, policy: bool = True
    ) -> dict[str, float]:
        """The numbers of this rank's shard; no step is made."""
        lengths = shard.batch.lengths
        return {
            "steps": 0.0,
            "counted_samples": float(len(lengths)),
            "counted_tokens": float(lengths.sum()),
            "counted_long": float((lengths > self._longest).sum()) if self._longest else 0.0,
        }
