"""Can the algorithm credit each turn of an episode with its own reward, and has anything such turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.schema import SINGLE_TURN, Config
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    CustomAdvantage,
    GaeAdvantage,
    NoAdvantage,
    ReturnsAdvantage,
    ScoreKind,
)
from rlscale.config.schema.component import TARGET

_VARIED_REWARDS = "rlscale.rollout.filters.varied_rewards"
"""The filter of `rollout/filter=varied_rewards`."""


def turns_can_be_credited(context: CheckContext) -> Iterator[str]:
    """One line for each setting beside which `algo.turn_discount` cannot act."""
    config = context.config
    algo, discount = config.algo, config.algo.turn_discount
    if context.supervised or discount is None:
        return
    by_algorithm = _by_algorithm(algo, context.advantage, discount)
    for why in (*by_algorithm, *_by_dropped_groups(config), *_by_episodes(context)):
        yield f"algo.turn_discount={discount:g}: {why}"


def _by_algorithm(algo: AlgoConfig, advantage: str, discount: float) -> Iterator[str]:
    kind = algo.score.kind
    if isinstance(algo.advantage, NoAdvantage):
        yield "algo/advantage=none never reads a reward; set it to null, or choose algo/advantage=returns"
    elif isinstance(algo.advantage, CustomAdvantage):
        if discount != 1.0:
            yield (
                "your function of algo/advantage=custom finds each turn's reward in the column turn_reward, and "
                "discounts it itself; set it to 1"
            )
    elif isinstance(algo.advantage, ReturnsAdvantage | GaeAdvantage):
        if kind is not ScoreKind.raw:
            yield (
                f"algo/advantage={advantage} adds up the rewards of turns, and algo.score.kind={kind.name} is of whole "
                "samples; choose algo/score=raw"
            )
    elif kind not in (ScoreKind.raw, ScoreKind.group_mean, ScoreKind.group_mean_std):
        yield (
            f"algo.score.kind={kind.name} cannot score single turns; choose algo/score=group_mean, group_mean_std or "
            "raw"
        )


def _by_dropped_groups(config: Config) -> Iterator[str]:
    drops = "drops groups by the sums of their rewards, where the turns still differ"
    if config.algo.refill.drop_equal:
        yield f"algo.refill.drop_equal=true {drops}; set algo.refill.drop_equal=false"
    if config.rollout.filter.get(TARGET) == _VARIED_REWARDS:
        yield f"rollout/filter=varied_rewards {drops}; choose rollout/filter=all"


def _by_episodes(context: CheckContext) -> Iterator[str]:
    config = context.config
    if config.agent.command is not None or config.agent._target_:
        yield "an agent has one reward for all of its turns; set it to null"
    elif config.env.get(TARGET) == SINGLE_TURN and config.rollout.replay is None:
        yield "env=single_turn has one turn only; set it to null, or choose another env"


TURN_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (turns_can_be_credited,)
