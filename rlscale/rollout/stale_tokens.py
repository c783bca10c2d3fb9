"""Tokens over the staleness bound in a batch that is handed out: which of them the loss leaves out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlscale.config.schema.rollout_config import Stale
from rlscale.data.batches.fields import FIELDS, STALE
from rlscale.data.sample import Group, Sample


def over_the_bound(sample: Sample, version: int, max_staleness: int) -> NDArray[np.bool_]:
    """Which generated tokens are staler than `max_staleness` for a trainer of `version`, bool [tokens]."""
    stale: NDArray[np.bool_] = sample.loss_mask & (sample.versions < version - max_staleness)
    return stale


def leave_out(groups: Sequence[Group], version: int, max_staleness: int, stale: Stale) -> list[int]:
    """Mark what the loss leaves out, in the column `stale` of every sample; returns the marked tokens of each group.

    `mask`: the tokens over the bound. `withhold`: all of their sample's tokens. Rewards, baselines and denominators
    stay as they are. Where nothing is over the bound samples have no such column.
    """
    marks = [[over_the_bound(sample, version, max_staleness) for sample in group.samples] for group in groups]
    if stale is Stale.withhold:
        for group, marked in zip(groups, marks, strict=True):
            for sample, mark in zip(group.samples, marked, strict=True):
                if mark.any():
                    mark[:] = sample.loss_mask
    counts = [sum(int(mark.sum()) for mark in marked) for marked in marks]
    some = any(counts)  # once: asked for each sample, a batch would cost the square of its size
    for group, marked in zip(groups, marks, strict=True):
        for sample, mark in zip(group.samples, marked, strict=True):
            sample.columns.pop(STALE, None)
            if some:
                sample.columns[STALE] = mark
    return counts


def fill_up(groups: Sequence[Group], name: str) -> None:
    """Give all samples a column of one value per token that some have: others may be from before a restart."""
    samples = [sample for group in groups for sample in group.samples]
    if any(name in sample.columns for sample in samples):
        field = FIELDS[name]
        for sample in samples:
            sample.columns.setdefault(name, np.full(len(sample.tokens), field.fill, field.dtype))


def staleness_of(groups: Sequence[Group], version: int) -> NDArray[np.int64]:
    """How many generated tokens have staleness 0, 1, 2, ... for a trainer of `version`, int64 [largest + 1]."""
    ages = [version - sample.versions[sample.loss_mask] for group in groups for sample in group.samples]
    return np.bincount(np.maximum(np.concatenate(ages), 0)) if ages else np.zeros(1, np.int64)
