"""Batches and specs for the trainer's tests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rlscale.config.composition.compose import compose
from rlscale.config.derived.needs import AlgoNeeds, Moment
from rlscale.config.schema import Config
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    BroadcastAdvantage,
    ClipLoss,
    GspoLoss,
    KLConfig,
    KLEstimator,
    KLPlacement,
    LossConfig,
    NoAdvantage,
    ReductionConfig,
    ReductionKind,
    ScoreConfig,
    ScoreKind,
    SftLoss,
)
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.correction_config import CorrectionConfig
from rlscale.config.schema.model_config import DType, ModelConfig
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.parallel_config import ParallelConfig
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.config.schema.weights_config import WeightsConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.packing import plan
from rlscale.data.batches.rank_shard import RankShard, split
from rlscale.run.sides import batching
from rlscale.trainer.preparation import prepare
from rlscale.trainer.trainer_spec import TrainerSpec

MAX_RESPONSE_TOKENS = 24


def make_algo(loss: LossConfig, **changes: Any) -> AlgoConfig:
    """GRPO's pieces around a loss (supervised: none of them), with changes."""
    supervised = isinstance(loss, SftLoss)
    pieces: dict[str, Any] = {
        "name": "sft" if supervised else "grpo",
        "score": ScoreConfig(kind=ScoreKind.none if supervised else ScoreKind.group_mean_std),
        "advantage": NoAdvantage() if supervised else BroadcastAdvantage(),
        "kl": KLConfig(),
        "loss": loss,
        "correction": CorrectionConfig(),
        "reduction": ReductionConfig(kind=ReductionKind.token_mean if supervised else ReductionKind.sample_mean),
    }
    return AlgoConfig(**{**pieces, **changes})


ALGORITHMS: dict[str, AlgoConfig] = {
    "grpo": make_algo(ClipLoss()),
    "grpo_kl": make_algo(
        ClipLoss(),
        kl=KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k3, coef=0.1),
        entropy_coef=0.01,
        steps_per_iteration=2,
    ),
    "gspo": make_algo(GspoLoss(), steps_per_iteration=2),
    "sft": make_algo(SftLoss()),
}


def make_spec(model: Path, algorithm: str = "grpo", **options: Any) -> TrainerSpec:
    """A spec on the CPU; options replace its parts, `parallel` also by a dict of sizes."""
    parallel = options.pop("parallel", {})
    spec = TrainerSpec(
        model=ModelConfig(name="tiny", dtype=options.pop("dtype", DType.float32)),
        model_path=str(model),
        init_path=str(model),
        parallel=ParallelConfig(**parallel),
        optim=OptimConfig(lr=1e-3, clip_grad=0.0),
        trainer=TrainerConfig(),
        algo=ALGORITHMS[algorithm],
        weights=WeightsConfig(bucket_mb=1),
        device=Device.cpu,
        temperature=0.8,
        total_steps=16,
        seed=3,
        data_parallel=parallel.get("data") or 1,
    )
    return replace(spec, **options)


def collect(algo: AlgoConfig, rows: int = 12, vocabulary: int = 64, seed: int = 0) -> Batch:
    """Ragged samples in groups of 4 with rewards, as they come from a rollout; the first half of each is a prompt."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 24, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    mask = np.zeros(total, bool)
    for row in range(rows):
        mask[offsets[row] + max(lengths[row] // 2, 1) : offsets[row + 1]] = True
    batch = Batch(offsets)
    columns = {
        "tokens": random.integers(0, vocabulary, total),
        "loss_mask": mask,
        "rollout_logprobs": np.where(mask, -random.random(total) * 4, 0.0),
        "versions": np.where(mask, 0, -1),
        "step": np.arange(rows) * algo.steps_per_iteration // rows,
        "reward": random.random(rows),
        "group": np.arange(rows) // 4,
        "sample": np.arange(rows),
    }
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    return batch


def make_batch(algo: AlgoConfig, rows: int = 12, vocabulary: int = 64, seed: int = 0) -> Batch:
    """A prepared batch. The columns that models would compute for it are random numbers about the rollout's."""
    batch = collect(algo, rows, vocabulary, seed)
    random = np.random.default_rng(seed + 1)
    for name in (one.column for one in AlgoNeeds.of_algo(algo).passes_at(Moment.batch)):
        noise = 0.1 * random.normal(size=batch.tokens_total)
        batch = batch.with_column(name, noise if name == "values" else batch.column("rollout_logprobs") + noise)
    return prepare(batch, algo, max_response_tokens=MAX_RESPONSE_TOKENS)[0]


def divide(batch: Batch, data_parallel: int, max_tokens: int = 64) -> list[RankShard]:
    """The parts of a batch."""
    return split(batch, plan(batch.lengths, batch.column("step"), data_parallel, max_tokens))


def divide_for(batch: Batch, spec: TrainerSpec) -> list[RankShard]:
    """The parts of a batch for a layout, divided as a run divides it."""
    config = replace(
        default_config(),
        model=replace(spec.model, path=spec.model_path),
        parallel=replace(spec.parallel, data=spec.data_parallel),
        trainer=replace(spec.trainer, max_tokens_per_microbatch=max_tokens_of(spec)),
    )
    return batching.divide(batch, config)[0]


@cache
def default_config() -> Config:
    """The default recipe's, which takes a third of a second to compose."""
    return compose()


def max_tokens_of(spec: TrainerSpec) -> int:
    """Tokens of a micro-batch: fewer for virtual pipelines, which then need more micro-batches than the tokens do."""
    return 32 if spec.parallel.virtual_pipeline is not None else 64
