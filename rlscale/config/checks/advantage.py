"""Do score and advantage read each other, and do groups have the samples that they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.needs import COLUMNS
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    BaselineAdvantage,
    BroadcastAdvantage,
    CustomAdvantage,
    CustomLoss,
    KLPlacement,
    NoAdvantage,
    RefillConfig,
    ScoreKind,
)
from rlscale.config.schema.rollout_config import RolloutConfig

GROUPED = (ScoreKind.group_mean_std, ScoreKind.group_mean, ScoreKind.leave_one_out)
"""Scores that compare the samples of a group."""


def _named(samples: int) -> str:
    """The options with such a score, and what they need besides."""
    named = " or ".join(f"algo/score={kind.name}" for kind in GROUPED)
    return named if samples > 1 else f"{named} with rollout.samples_per_group of at least 2"


def _besides_raw(algo: AlgoConfig) -> str:
    """What else must change where the score becomes the reward itself."""
    others = ["algo/advantage=returns"] if isinstance(algo.advantage, BaselineAdvantage) else []
    others += ["algo.refill.drop_equal=false"] if algo.refill.drop_equal else []
    return f" with {' and '.join(others)}" if others else ""


def score_has_its_group(context: CheckContext) -> Iterator[str]:
    """A score that compares the samples of a group needs at least two, and `baseline` needs such a score."""
    algo, samples = context.config.algo, context.config.rollout.samples_per_group
    if context.supervised:
        return
    if algo.score.kind in GROUPED and samples < 2:
        yield (
            f"algo.score.kind={algo.score.kind.name} compares the samples of a group, but "
            f"rollout.samples_per_group={samples}; use at least 2, or algo/score=raw{_besides_raw(algo)}"
        )
    if isinstance(algo.advantage, BaselineAdvantage) and algo.score.kind is ScoreKind.raw:
        yield (
            "algo/advantage=baseline takes a score with its baseline off already, but algo.score.kind=raw has none; "
            f"choose {_named(samples)}, or algo/advantage=returns"
        )


def score_is_read(context: CheckContext) -> Iterator[str]:
    """A score that no advantage reads, an advantage without a score, a loss without an advantage."""
    algo = context.config.algo
    if context.supervised or isinstance(algo.advantage, CustomAdvantage):
        return  # a custom function may leave the scores alone
    nothing = isinstance(algo.advantage, NoAdvantage)
    if nothing and algo.score.kind is not ScoreKind.none:
        yield (
            f"algo.score.kind={algo.score.kind.name} is never read with algo/advantage=none; choose algo/score=none, "
            "or algo/advantage=broadcast"
        )
    if nothing and algo.distil_coef == 0 and not isinstance(algo.loss, CustomLoss):
        yield (
            f"algo/advantage=none: the loss of {algo.name} needs advantages, and they are all 0; choose "
            "algo/advantage=broadcast, or distil from a teacher with algo.distil_coef=1"
        )
    if nothing or algo.score.kind is not ScoreKind.none:
        return
    kl_alone = algo.kl.placement is KLPlacement.reward and not isinstance(algo.advantage, BroadcastAdvantage)
    if algo.distil_coef and not kl_alone:
        yield (
            f"algo/advantage={context.advantage} reads a score, but algo.score.kind=none; for distillation "
            "alone choose algo/advantage=none"
        )
    elif not algo.distil_coef:
        yield (
            f"algo/advantage={context.advantage} reads a score, but algo.score.kind=none; choose "
            + ("" if isinstance(algo.advantage, BaselineAdvantage) else "algo/score=raw or ")
            + _named(context.config.rollout.samples_per_group)
        )


def whitening_has_something(context: CheckContext) -> Iterator[str]:
    """Zeros stay zeros."""
    algo = context.config.algo
    if algo.whiten and isinstance(algo.advantage, NoAdvantage) and not algo.distil_coef and not context.supervised:
        yield "algo.whiten=true does nothing to advantages that are all 0 (algo/advantage=none); set it to false"


def columns_are_known(context: CheckContext) -> Iterator[str]:
    """What a custom function asks for must be something that a model can compute."""
    algo = context.config.algo
    if isinstance(algo.advantage, CustomAdvantage):
        yield from _asked("algo.advantage.reads", algo.advantage.reads, tuple(COLUMNS))
    if isinstance(algo.loss, CustomLoss):
        others = tuple(name for name, model in COLUMNS.items() if model != "policy")  # which it is given in any case
        yield from _asked("algo.loss.reads", algo.loss.reads, others)
        if "values" in algo.loss.reads and not context.needs.critic:
            yield (
                "algo.loss.reads=values: this algorithm has no critic; choose algo/advantage=gae, or name values in "
                "algo.advantage.reads"
            )


def _asked(key: str, names: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if name not in known:
            hint = did_you_mean(nearest(name, known)) or ";"
            yield f"{key}={name}: there is no such column{hint} Available: {', '.join(known)}"
        elif times > 1:
            yield f"{key}={name}: is named twice"


def overlong_acts(context: CheckContext) -> Iterator[str]:
    """The penalty near the length limit goes into a reward that is read, over tokens that a response has."""
    algo, longest = context.config.algo, context.config.rollout.max_response_tokens
    penalty, cache = algo.overlong.penalty, algo.overlong.cache_tokens
    if context.supervised:
        return
    if penalty and algo.score.kind is ScoreKind.none and not isinstance(algo.advantage, CustomAdvantage):
        yield (
            f"algo.overlong.penalty={penalty:g} is taken off the rewards, but algo.score.kind=none never reads them; "
            "set it to 0"
        )
    if penalty and cache is None and longest == 1:
        yield (
            "algo.overlong.cache_tokens=null is one token with rollout.max_response_tokens=1, so that every response "
            "would be penalised; raise rollout.max_response_tokens, or set algo.overlong.penalty=0"
        )
    elif penalty and cache is not None and cache >= longest:
        yield (
            f"algo.overlong.cache_tokens={cache} leaves no length of rollout.max_response_tokens={longest} free, so "
            "that every response would be penalised; "
            + (
                "lower it (null is a fifth of the longest response)"
                if longest > 1
                else "raise rollout.max_response_tokens, or set algo.overlong.penalty=0 and the cache to null"
            )
        )


def refill_acts(context: CheckContext) -> Iterator[str]:
    """Groups with equal rewards are worth replacing only where equal rewards teach nothing."""
    algo, samples = context.config.algo, context.config.rollout.samples_per_group
    refill = algo.refill
    if context.supervised:
        return
    keeps_all = context.config.rollout.filter == RolloutConfig().filter
    if not refill.drop_equal:
        if keeps_all and refill.max_dropped != RefillConfig().max_dropped:
            yield (
                f"algo.refill.max_dropped={refill.max_dropped:g} is never read with algo.refill.drop_equal=false; "
                "leave it out, or set algo.refill.drop_equal=true"
            )
    elif algo.score.kind in (ScoreKind.raw, ScoreKind.none):
        yield (
            f"algo.refill.drop_equal=true: with algo.score.kind={algo.score.kind.name} a group with equal rewards "
            f"teaches as much as any other; set it to false, or choose {_named(samples)}"
        )
    elif samples < 2 and algo.score.kind is ScoreKind.custom:  # the others are refused for it anyway
        yield (
            "algo.refill.drop_equal=true: with rollout.samples_per_group=1 the rewards of every group are equal; "
            "use at least 2, or set it to false"
        )


ADVANTAGE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    score_has_its_group,
    score_is_read,
    whitening_has_something,
    columns_are_known,
    overlong_acts,
    refill_acts,
)
