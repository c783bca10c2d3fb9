"""Score centering as the configuration says, on the columns of a micro-batch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rlscale.algo import corrections
from rlscale.algo.score_centering import Bounds, Centering, score_centering
from rlscale.config.schema.correction_config import CorrectionConfig, MisAction, WeightKind
from rlscale.data.batches.fields import SAMPLER_LOGPROBS, SAMPLER_WORDS


def centering_of(config: CorrectionConfig, logprobs: Tensor, fields: Mapping[str, Tensor], mask: Tensor) -> Centering:
    """Of each token that is trained and that an engine generated, 0 elsewhere.

    Shapes: logprobs [T, K] of the words that the engine names, with gradient; fields: sampler_words and
    sampler_logprobs [T, K], versions [T]; mask [T] bool -> [T].
    """
    generated = mask & (fields["versions"] >= 0)
    named = (fields[SAMPLER_WORDS.name] >= 0) & generated[:, None]
    return score_centering(logprobs, fields[SAMPLER_LOGPROBS.name], named, weight_bounds(config))


def weight_bounds(config: CorrectionConfig) -> Bounds | None:
    """Those of the importance weights of single tokens; None where there are none."""
    if config.weight is WeightKind.none:
        return None
    low, high = corrections.bounds(config.weight.value, config.action.value, config.lower, config.upper)
    masks = config.weight is WeightKind.mis and config.action is MisAction.mask
    return Bounds(low, high, zeroed=masks or config.weight is WeightKind.icepop)
