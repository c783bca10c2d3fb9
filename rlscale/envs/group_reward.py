"""Rewards that a group's samples get together, such as places in a tournament."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action
from rlscale.envs.score import Failed, Score


class GroupReward(Protocol):
    """Scores for all responses to one prompt, which may depend on each other."""

    async def __call__(self, prompt: Prompt, responses: Sequence[Action]) -> Sequence[Score | Failed]:
        """One for each response, in their order. Failed for those that could not be judged."""
        ...


class PairJudge(Protocol):
    """Says which of two responses is better."""

    async def __call__(self, prompt: Prompt, first: Action, second: Action) -> float | Failed:
        """1.0 if the first is better, 0.0 if the second is, 0.5 for a tie; Failed, or RewardFailed raised, if it cannot
        tell."""
        ...
