"""Correcting for the difference between the trainer's and the engine's log-probs of the same tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlscale.config.schema.about import Limit, Unread, bounded, key
from rlscale.config.schema.limits import RATIO
from rlscale.config.schema.section import Section


class WeightKind(Enum):
    """Importance weights on the policy loss, from w = exp(old - rollout)."""

    none = "none"
    tis = "tis"
    icepop = "icepop"
    mis = "mis"
    custom = "custom"


class Level(Enum):
    """What shares one weight: a token, or a segment by the sum or by the mean of its log ratios."""

    token = "token"
    sequence = "sequence"
    geometric = "geometric"


class MisAction(Enum):
    """What `mis` does with weights past its bounds."""

    truncate = "truncate"
    clip = "clip"
    mask = "mask"


@dataclass
class RejectionConfig(Section):
    """Segments that are left out of the loss altogether, because the engine was too far from the trainer."""

    level: Level | None = None
    """Level of the ratio that is held against the bounds; null for no bounds."""
    lower: float | None = bounded(None, at_least=0, limit=RATIO)
    """Ratios under this reject the segment."""
    upper: float | None = bounded(None, above=0, limit=RATIO)
    """Ratios over this reject the segment."""
    veto: float | None = bounded(None, above=0, below=1)
    """A single token's ratio under this rejects its segment; null for no veto."""


def _of(*kinds: WeightKind) -> Unread:
    """What the weights of these kinds read, and no others."""
    options = " or ".join(f"algo/correction={kind.name}" for kind in kinds)
    return Unread(
        lambda correction: correction.weight not in kinds,
        f" is never read with algo.correction.weight={{section.weight.name}}; leave it out, or choose {options}",
    )


_BOUNDED = (WeightKind.tis, WeightKind.icepop, WeightKind.mis)


@dataclass
class CorrectionConfig(Section):
    """What is done about the mismatch; its metrics are logged in any case."""

    weight: WeightKind = WeightKind.none
    """Importance weights on the policy loss."""
    level: Level | None = key(None, unread=[_of(*_BOUNDED)])
    """What shares one weight; null is `geometric` for the losses of GSPO and `token` for all others."""
    action: MisAction = key(MisAction.truncate, unread=[_of(WeightKind.mis)])
    """What `mis` does past its bounds: bound from above, bound on both sides, or weight 0."""
    lower: float | None = bounded(None, at_least=0, limit=RATIO, unread=[_of(WeightKind.icepop, WeightKind.mis)])
    """Lower bound of the weight; null is 0.5 for icepop and 1 / upper for mis."""
    upper: float | None = bounded(None, above=0, limit=RATIO, unread=[_of(*_BOUNDED)])
    """Upper bound of the weight; null is 2 for tis and mis and 5 for icepop."""
    normalise: bool = key(False, unread=[_of(*_BOUNDED, WeightKind.custom)])
    """Divide the weights by their mean over the step's trainable tokens."""
    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.algo.protocols.Correction and its arguments, for `custom`."""
    rejection: RejectionConfig = field(default_factory=RejectionConfig)
    """Segments that are left out."""
    score_centering: int | None = bounded(None, at_least=1, limit=Limit(4096, "an answer would have megabytes of them"))
    """Take the score that the engine's own distribution leads one to expect off every token, over so many of its
    likeliest words, which the engine sends along; null for none."""
    opsm_delta: float | None = bounded(None, above=0, limit=RATIO)
    """Leave out segments with A < 0 whose mean of rollout - current log-probs is over this; null for none."""
    bypass: bool = False
    """Take the engine's log-probs for the old ones, and make no pass for them."""
