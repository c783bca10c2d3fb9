"""Can the correction of the mismatch act: its weights, its rejection, its bypass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.schema.algo_config import GspoLoss, OldLogprobs
from rlscale.config.schema.correction_config import Level, MisAction, RejectionConfig, WeightKind

_WEIGHTS = ("tis", "icepop", "mis", "custom")

BOUNDS: dict[WeightKind, tuple[float | None, float]] = {
    WeightKind.tis: (0.0, 2.0),
    WeightKind.icepop: (0.5, 5.0),
    WeightKind.mis: (None, 2.0),
}
"""Bounds where none are given; the lower one of mis is 1 / upper."""


def chosen_correction_acts(context: CheckContext) -> Iterator[str]:
    """An option of the group whose own setting was taken back leaves nothing of it."""
    correction = context.config.algo.correction
    option = context.config.run.groups.get("algo/correction")
    if context.supervised:
        return
    how = ""
    if option in _WEIGHTS and correction.weight is WeightKind.none:
        how = "algo.correction.weight=none weighs nothing; leave that out"
    elif option == "bypass" and not correction.bypass:
        how = "algo.correction.bypass=false bypasses nothing; leave that out"
    elif option == "opsm" and correction.opsm_delta is None:
        how = "algo.correction.opsm_delta=null masks nothing; give a number"
    elif option == "rejection" and correction.rejection == RejectionConfig():
        how = "level, bounds and veto of algo.correction.rejection all null rejects nothing; give a level and a bound"
    elif option == "score_centering" and correction.score_centering is None:
        how = "algo.correction.score_centering=null centers nothing; give a number of words"
    if how:
        yield f"algo/correction={option} with {how}, or choose algo/correction=none"


def bounds_of_weights_act(context: CheckContext) -> Iterator[str]:
    """Bounds that the chosen kind ignores, or that leave nothing."""
    correction, kind = context.config.algo.correction, context.config.algo.correction.weight
    if context.supervised:
        return
    if kind is WeightKind.mis and correction.action is MisAction.truncate and correction.lower is not None:
        yield (
            f"algo.correction.lower={correction.lower:g} is never read with algo.correction.action=truncate, which "
            "bounds from above alone; use algo.correction.action=clip or mask"
        )
    if kind is WeightKind.mis and correction.action is MisAction.clip and correction.lower == 0:
        yield (
            "algo.correction.lower=0 bounds no ratio from below, so that algo.correction.action=clip is truncate; "
            "raise it, or leave it out with algo.correction.action=truncate"
        )
    if kind in BOUNDS:
        one_sided = kind is WeightKind.tis or (kind is WeightKind.mis and correction.action is MisAction.truncate)
        lower = None if one_sided else correction.lower
        yield from _bounds("algo.correction", lower, correction.upper, BOUNDS[kind] if not one_sided else None)


def level_fits_the_loss(context: CheckContext) -> Iterator[str]:
    """The ratio of GSPO is a segment's, and so is its correction."""
    algo = context.config.algo
    weighted = algo.correction.weight in BOUNDS
    if isinstance(algo.loss, GspoLoss) and weighted and algo.correction.level is Level.token:
        yield (
            f"algo.correction.level=token: the loss {context.loss} has one ratio per segment, which a weight of each "
            "token's own contradicts; use geometric (the default here) or sequence"
        )


def rejection_is_whole(context: CheckContext) -> Iterator[str]:
    """Bounds need a level, a level needs a bound, and tokens on which both sides agree stay."""
    rejection = context.config.algo.correction.rejection
    if context.supervised:
        return
    bounds = [(name, value) for name in ("lower", "upper") if (value := getattr(rejection, name)) is not None]
    if rejection.level is None:
        for name, value in bounds:
            yield (
                f"algo.correction.rejection.{name}={value:g} needs algo.correction.rejection.level to be token, "
                "sequence or geometric"
            )
        return
    if not bounds:
        yield (
            f"algo.correction.rejection.level={rejection.level.name} without bounds rejects nothing; give "
            "algo.correction.rejection.lower or upper, or set the level to null"
        )
    if rejection.lower == 0 and rejection.upper is None:
        yield (
            "algo.correction.rejection.lower=0 rejects nothing, because no ratio is below 0; raise it, or give "
            "algo.correction.rejection.upper"
        )
    yield from _bounds("algo.correction.rejection", rejection.lower, rejection.upper)


def bypass_leaves_nothing_to_correct(context: CheckContext) -> Iterator[str]:
    """Under bypass old and rollout log-probs are the same numbers: every weight is 1."""
    algo, correction = context.config.algo, context.config.algo.correction
    if context.supervised or not correction.bypass:
        return
    same = "algo.correction.bypass=true takes the engine's log-probs for the old ones, so that every ratio of them is 1"
    if correction.weight is not WeightKind.none:
        yield f"algo.correction.weight={correction.weight.name} never acts: {same}; use one of the two"
    if correction.rejection != RejectionConfig():
        yield f"algo.correction.rejection never acts: {same}; use one of the two"
    if algo.old_logprobs is OldLogprobs.always:
        yield (
            "algo.old_logprobs=always asks for a pass that algo.correction.bypass=true leaves out; change one of them"
        )


def centering_knows_the_weights(context: CheckContext) -> Iterator[str]:
    """The expected score needs the weight of every word that could have been drawn, not of the one that was."""
    algo, correction = context.config.algo, context.config.algo.correction
    if context.supervised or correction.score_centering is None:
        return
    words = f"algo.correction.score_centering={correction.score_centering}"
    vocabulary = context.size("vocab_size")
    if vocabulary is not None and correction.score_centering > vocabulary:
        yield f"{words} is more words than the {vocabulary} of the model; lower it"
    if correction.bypass:
        yield (
            f"{words} never acts with algo.correction.bypass=true, whose ratio corrects for the engine already, so "
            "that no drift is left; use one of the two"
        )
    if algo.old_logprobs is OldLogprobs.behaviour:
        yield (
            f"{words} compares the engine with the weights that are trained, and with algo.old_logprobs=behaviour the "
            "ratio does that already; use algo.old_logprobs=auto or always"
        )
    for key, acts in (
        ("rejection", correction.rejection != RejectionConfig()),
        ("opsm_delta", correction.opsm_delta is not None),
    ):
        if acts:
            yield (
                f"{words} takes off what is expected over all words, and algo.correction.{key} leaves samples out by "
                "the word that was drawn, so that a drift would stay; use algo.correction.weight=icepop, which is known"
            )
    kind = correction.weight
    if kind is WeightKind.custom:
        yield f"{words} cannot know what your own weights of algo.correction.function would be for other words; use tis"
    elif kind is not WeightKind.none and AlgoNeeds.of_algo(algo).weight_level is not Level.token:
        yield (
            f"{words} takes the expected score off every token, and algo.correction.weight={kind.name} has one weight "
            "for a segment here; use algo.correction.level=token, or algo.correction.weight=none"
        )
    if correction.normalise:
        yield f"{words} needs weights of their own size; leave algo.correction.normalise out"


def _bounds(
    section: str, lower: float | None, upper: float | None, default: tuple[float | None, float] | None = None
) -> Iterator[str]:
    """Bounds of a ratio in the wrong order, or past 1, where trainer and engine agree; `default` stands for None."""
    if lower is not None and upper is not None and lower > upper:
        yield f"{section}.lower={lower:g} is above {section}.upper={upper:g}; swap them"
        return
    if upper is not None and upper < 1:
        yield f"{section}.upper={upper:g} is below 1, the ratio where trainer and engine agree; use one above 1"
        return
    if lower is not None and lower > 1:
        yield f"{section}.lower={lower:g} is above 1, the ratio where trainer and engine agree; use one below 1"
        return
    if default is not None:
        upper = default[1] if upper is None else upper
        lower = (1 / upper if default[0] is None else default[0]) if lower is None else lower
    if lower is not None and lower == upper:
        yield f"{section}.upper={upper:g} with a lower bound of {lower:g} leaves no room around 1; move them apart"


CORRECTION_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    chosen_correction_acts,
    bounds_of_weights_act,
    level_fits_the_loss,
    rejection_is_whole,
    bypass_leaves_nothing_to_correct,
    centering_knows_the_weights,
)
