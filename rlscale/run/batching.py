"""From groups to what each data-parallel rank trains on: advantages, loss weights, micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlscale.config.schema import Config
from rlscale.config.schema.algo import ScoreKind
from rlscale.config.sizes import Sizes
from rlscale.data.batch import Batch
from rlscale.data.packing import Plan, plan
from rlscale.data.part import Part, split
from rlscale.data.sample import Group
from rlscale.trainer.objective import token_columns


def build_batch(groups: Sequence[Group], config: Config) -> Batch:
    """The batch of one iteration. Whatever depends on the samples of more than one rank is computed here."""
    algo = config.algo
    batch = Batch.from_groups(groups, steps=algo.steps_per_iteration)
    rewards = batch.column("reward")
    columns = token_columns(
        algo,
        rewards=np.zeros_like(rewards) if algo.score is ScoreKind.none else rewards,
        groups=batch.column("group"),
        sample=batch.column("sample"),
        lengths=batch.lengths,
        step=batch.column("step"),
        mask=batch.column("loss_mask"),
        max_response_tokens=config.rollout.max_response_tokens,
    )
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    return batch


def divide(batch: Batch, config: Config) -> tuple[list[Part], Plan]:
    """One part per data-parallel rank, and the plan by which the batch was divided."""
    parallel = config.parallel
    align = parallel.tensor * (2 * parallel.context if parallel.context > 1 else 1)
    division = plan(
        batch.lengths,
        batch.column("step"),
        Sizes.of(config).data_parallel,
        config.trainer.max_tokens_per_microbatch,
        align,
    )
    return split(batch, division), division


def batch_metrics(groups: Sequence[Group], batch: Batch, *, rewarded: bool) -> dict[str, float]:
    """What an iteration's samples were like: reward, lengths, truncation, groups without a signal."""
    responses = batch.lengths - batch.column("prompt_length")
    metrics = {
        "response_length": float(np.mean(responses)),
        "response_length_max": float(np.max(responses)),
        "truncated": float(np.mean(batch.column("truncated"))),
        "groups": float(len(groups)),
        "samples": float(batch.rows),
        "batch_tokens": float(batch.tokens_total),
    }
    if rewarded:
        reward = batch.column("reward")
        equal = [bool(group.rewards.max() == group.rewards.min()) for group in groups]
        metrics |= {"reward": float(np.mean(reward)), "reward_std": float(np.std(reward))}
        metrics["groups_without_signal"] = float(sum(equal))
    return metrics
