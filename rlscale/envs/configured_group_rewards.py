"""The group rewards of a run: `reward.group_function`, and those of sources with a reward of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from rlscale.config.errors import UserError
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.sample import Prompt
from rlscale.data.target import build_target
from rlscale.envs.environment import Action
from rlscale.envs.group_reward import GroupReward
from rlscale.envs.reward import RewardFailed
from rlscale.envs.score import Failed, Score, full_score


def build_group_reward(config: RewardConfig) -> GroupReward | None:
    """The group reward of a section, None where it names none. UserError if it cannot be built."""
    if not config.group_function:
        return None
    try:
        built: GroupReward = build_target(config.group_function, "reward.group_function", 2)
    except UserError as error:
        told = str(error)
        raise UserError(told if told.startswith("reward.group_function") else f"reward.group_function.{told}") from None
    return built


class GroupRewards:
    """Scores the responses to a prompt together, by the group reward of the prompt's source or by the run's."""

    def __init__(self, reward: RewardConfig, own: Mapping[str, RewardConfig]) -> None:
        """`own`: the rewards of sources that have one of their own. UserError if one cannot be built."""
        self._limits = {name: config.timeout_s for name, config in own.items()}
        self._own = {name: build_group_reward(config) for name, config in own.items()}
        self._common, self._limit_s = build_group_reward(reward), reward.timeout_s

    async def scores(self, prompt: Prompt, responses: Sequence[Action]) -> list[Score | Failed] | None:
        """A score for each response, Failed where it cannot be told; None where the prompt has no group reward."""
        reward = self._own.get(prompt.source, self._common)
        if reward is None:
            return None
        limit_s = self._limits.get(prompt.source, self._limit_s)
        try:
            async with asyncio.timeout(limit_s) as timer:
                given = list(await reward(prompt, responses))
            if len(given) != len(responses):
                raise ValueError(f"it gave {len(given)} scores for {len(responses)} responses")
            return [one if isinstance(one, Failed) else full_score(one) for one in given]
        except UserError:
            raise
        except TimeoutError as error:
            late = f"took over reward.timeout_s={limit_s:g} seconds"
            reason = late if timer.expired() else f"raised TimeoutError: {error}"
        except RewardFailed as error:
            reason = f"failed: {error}"
        except (Exception, SystemExit) as error:
            reason = " ".join(f"raised {type(error).__name__}: {error}".split())
        return [Failed(f"the group reward {reason}")] * len(responses)
