"""What a reward is, and how the configured one is built."""

from __future__ import annotations

from typing import Any, Protocol

from rlscale.config.errors import UserError
from rlscale.config.schema.reward import RewardConfig
from rlscale.data.target import build_target


class RewardFailed(Exception):
    """The reward of one sample could not be computed; the message says why."""


class Reward(Protocol):
    """A score for one response. `_target_` may be a class whose instances are this, or a function with this signature.

    It may be called from several threads (`reward.workers=0`) or processes at once.
    """

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float:
        """The score of `response` (text without special tokens) given the prompt's label and other keys.

        Raises, rather than giving 0, when it cannot tell: a failed reward drops the sample and is counted.
        """
        ...


def build_reward(config: RewardConfig) -> Reward:
    """The reward of `reward.function`. UserError naming reward.function.<argument> for one that it does not take."""
    if not config.function:
        raise UserError(
            "reward.function is empty; choose one with reward=arithmetic or reward=math, or give its _target_"
        )
    reward = build_target(config.function, "reward.function", call_arguments=3)
    if not callable(reward):
        raise UserError(f"reward.function: {type(reward).__name__} cannot be called (see rlscale.envs.reward.Reward)")
    return reward
