"""Batches for the tests of preparation and objective: ragged, unequal groups, several segments per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from rlscale.config.derived.needs import AlgoNeeds, Moment
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    BroadcastAdvantage,
    KLConfig,
    LossConfig,
    NoAdvantage,
    ReductionConfig,
    ReductionKind,
    ScoreConfig,
    ScoreKind,
    SftLoss,
)
from rlscale.config.schema.correction_config import CorrectionConfig
from rlscale.data.batches.batch import Batch
from rlscale.trainer.preparation import prepare
from tests.shipped import shipped
from tests.unit.algo.ragged import Ragged, ragged

MAX_RESPONSE_TOKENS = 30


def collected(data: Ragged) -> Batch:
    """A batch with every column that models could compute, before it is prepared."""
    draw = np.random.default_rng(99)
    batch = Batch(data.offsets)
    tokens = batch.tokens_total
    columns = {
        "tokens": np.zeros(tokens),
        "loss_mask": data.mask,
        "rollout_logprobs": data.rollout,
        "versions": data.versions,
        "sample": data.sample,
        "step": data.step,
        "group": data.groups[data.sample],
        "reward": data.rewards[data.sample],
        "old_logprobs": data.old,
        "ref_logprobs": data.ref,
        "teacher_logprobs": data.old + 0.5 * draw.normal(size=tokens),
        "values": draw.normal(size=tokens),
    }
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    return batch


def asked_of_models(config: AlgoConfig) -> tuple[str, ...]:
    """The columns that models compute for the whole batch before it is prepared."""
    return tuple(one.column for one in AlgoNeeds.of_algo(config).passes_at(Moment.batch))


def prepared(config: AlgoConfig, data: Ragged) -> Batch:
    """A batch as the ranks get it."""
    return prepare(collected(data), config, max_response_tokens=MAX_RESPONSE_TOKENS)[0]


def token_fields(batch: Batch, tokens: np.ndarray | None = None, version: int = 5) -> dict[str, torch.Tensor]:
    """The token columns of a batch, or those of some tokens, as an objective reads them."""
    picked = np.arange(batch.tokens_total) if tokens is None else tokens
    made = {n: torch.from_numpy(v[picked]) for n, v in batch.columns.items() if v.shape == (batch.tokens_total,)}
    return made | {"version": torch.tensor(version)}


def segment_sum_of(segment: np.ndarray) -> Callable[[torch.Tensor], torch.Tensor]:
    """The sum over segments whose numbers [T] are given."""
    number = torch.from_numpy(segment)
    count = int(segment.max(initial=-1)) + 1
    return lambda x: x.new_zeros(count).index_add(0, number, x)[number]


def algo(loss: LossConfig, **changes) -> AlgoConfig:
    """An algorithm with this loss and nothing besides, but for the changes."""
    supervised = isinstance(loss, SftLoss)
    pieces = {
        "name": "test",
        "score": ScoreConfig(kind=ScoreKind.none if supervised else ScoreKind.group_mean_std),
        "advantage": NoAdvantage() if supervised else BroadcastAdvantage(),
        "kl": KLConfig(),
        "loss": loss,
        "correction": CorrectionConfig(),
        "reduction": ReductionConfig(kind=ReductionKind.sample_mean),
    }
    return AlgoConfig(**{**pieces, **changes})


def corrected(name: str = "grpo", **correction) -> AlgoConfig:
    """A shipped algorithm with this correction."""
    return replace(shipped(name), correction=CorrectionConfig(**correction))


def run(config: AlgoConfig, data: Ragged | None = None) -> tuple[Batch, dict[str, float]]:
    """The prepared batch, and metrics of it."""
    return prepare(collected(data or ragged(3)), config, max_response_tokens=MAX_RESPONSE_TOKENS)
