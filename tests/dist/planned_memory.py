"""A model in a layout: the memory that the plan gives its fullest rank, and what a real one takes in a step.

benchmarks/plan_memory.py prints the table of docs/plan.md with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from rank_peaks import peak_of_rank
from rank_pool import RankPool
from tiny_models import make_model
from training_data import divide, make_spec

from rlscale.config.schema.model_config import DType
from rlscale.config.schema.trainer_config import Recompute, TrainerConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.families.config_file import complete, read_config
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.rank_layout import RankLayout
from rlscale.plan.trainer_memory import Training, rank_memory, stages
from rlscale.trainer.preparation import prepare
from rlscale.trainer.trainer_spec import TrainerSpec

ROW = 256
"""Tokens of a row."""
WIDE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class Case:
    """A model in a layout."""

    name: str
    kind: str = "dense"
    sizes: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    tokens: int = 2048
    microbatches: int = 2
    recompute: Recompute = Recompute.none
    sharded: bool = False
    dtype: DType = DType.float32

    @property
    def ranks(self) -> int:
        """Trainer ranks."""
        return prod(self.parallel.get(name, 1) for name in ("tensor", "pipeline", "context", "data"))


@dataclass(frozen=True)
class Taken:
    """Bytes of the fullest rank: held once it is built, and at most in a step."""

    held: float
    most: float


def measured_and_planned(case: Case, folder: Path, pool: RankPool) -> tuple[Taken, Taken]:
    """Real ranks make one step, and the plan of the same; the model is made in the folder."""
    make_model(folder, case.kind, **{**WIDE, **case.sizes})
    trainer = TrainerConfig(
        max_tokens_per_microbatch=case.tokens, recompute=case.recompute, distributed_optimizer=case.sharded
    )
    spec = make_spec(folder, parallel=case.parallel, trainer=trainer, dtype=case.dtype)
    shape = ModelShape.of(complete(read_config(folder)))
    shards = _shards(spec, case, shape.vocabulary)
    found = pool.run(peak_of_rank, spec, shards, world_size=case.ranks)
    ranks = _planned(spec, case, shape)
    static = max(rank.weights + rank.gradients + rank.optimizer for rank in ranks)
    return Taken(*map(max, zip(*found, strict=True))), Taken(static, max(rank.total for rank in ranks))


def _planned(spec: TrainerSpec, case: Case, shape: ModelShape) -> list[Any]:
    parallel = spec.parallel
    layout = RankLayout(
        parallel.tensor,
        parallel.sequence,
        parallel.pipeline,
        context=parallel.context,
        expert=parallel.expert,
        data=spec.data_parallel,
    )
    training = Training(
        case.tokens,
        case.recompute,
        case.dtype.bytes,
        case.sharded,
        entropy=True,
        microbatches=case.microbatches,
        on_gpu=False,
        sequence=ROW,
    )
    return [rank_memory(shape, layout, training, stage) for stage in stages(layout)]


def _shards(spec: TrainerSpec, case: Case, vocabulary: int) -> list[RankShard]:
    """Rows of random tokens that fill the micro-batches; all but the first token of each are trained."""
    draw = np.random.default_rng(0)
    rows = case.microbatches * case.tokens // ROW * spec.data_parallel
    offsets = np.arange(rows + 1) * ROW
    trained = np.arange(rows * ROW) % ROW > 0
    batch = Batch(offsets)
    columns = {
        "tokens": draw.integers(0, vocabulary, rows * ROW),
        "loss_mask": trained,
        "rollout_logprobs": np.where(trained, -3.0, 0.0),
        "versions": np.where(trained, 0, -1),
        "step": np.zeros(rows, np.int64),
        "reward": draw.random(rows),
        "group": np.arange(rows) // 8,
        "sample": np.arange(rows),
    }
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    batch = prepare(batch, spec.algo, max_response_tokens=ROW)[0]
    return divide(batch, spec.data_parallel, case.tokens)
