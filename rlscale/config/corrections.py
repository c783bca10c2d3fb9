"""What a correction weighs, and when: with the batch before the first step, or in each micro-batch."""

from __future__ import annotations

from rlscale.config.schema.algo_config import AlgoConfig, GspoLoss
from rlscale.config.schema.correction_config import Level, WeightKind


def weight_level(algo: AlgoConfig) -> Level:
    """What shares one importance weight: as configured, by default a segment for the losses of GSPO, else a token."""
    if algo.correction.level is not None:
        return algo.correction.level
    return Level.geometric if isinstance(algo.loss, GspoLoss) else Level.token


def corrected_ahead(algo: AlgoConfig) -> bool:
    """Whether the weights are computed with the batch (column `correction`) and not in each micro-batch."""
    config = algo.correction
    return config.weight is not WeightKind.none and (config.normalise or weight_level(algo) is not Level.token)


def rejects(algo: AlgoConfig) -> bool:
    """Whether segments may be left out."""
    return algo.correction.rejection.level is not None or algo.correction.rejection.veto is not None
