"""Environments: the one of a single turn, and what a configured class must be."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema import SINGLE_TURN
from rlscale.data.sample import Prompt
from rlscale.data.target import resolve_target
from rlscale.envs.configured_environment import configured_environment, takes_reward
from rlscale.envs.environment import Action, Environment, SingleTurn, Start, Step

PROMPT = Prompt(0, "0", np.array([1], np.int32), "5")


class Always:
    """A reward that remembers what it judged."""

    def __init__(self) -> None:
        self.judged: list[tuple[Action, Prompt]] = []

    async def score(self, action: Action, prompt: Prompt) -> float:
        self.judged.append((action, prompt))
        return 0.5


class Counting(Environment):
    """Each instance counts its own turns."""

    def __init__(self, turns: int, reward: Any = None) -> None:
        self.turns, self.reward, self.taken = turns, reward, 0

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        return Start()

    async def step(self, action: Action) -> Step:
        self.taken += 1
        return Step([{"role": "user", "content": "go on"}], done=self.taken == self.turns)


class WithoutClose:
    async def reset(self, prompt: Prompt, seed: int) -> Start:
        return Start()

    async def step(self, action: Action) -> Step:
        return Step(done=True)


class Blocking(Counting):
    def step(self, action: Action) -> Step:  # type: ignore[override]  # what the check refuses
        return Step(done=True)


def no_class(turns: int = 1) -> Counting:
    """What the check refuses."""
    return Counting(turns, Always())


def test_a_single_turn_ends_with_the_configured_reward() -> None:
    assert resolve_target({"_target_": SINGLE_TURN}, "env") is SingleTurn
    reward, action = Always(), Action("5", "5<|im_end|>", [9, 3])

    async def episode() -> tuple[Start, Step]:
        environment = configured_environment({"_target_": SINGLE_TURN}, reward)()
        start = await environment.reset(PROMPT, 1)
        step = await environment.step(action)
        await environment.close()
        return start, step

    assert asyncio.run(episode()) == (Start(), Step(reward=0.5, done=True))
    assert reward.judged == [(action, PROMPT)]


def test_every_sample_gets_an_instance_of_its_own_with_the_arguments_of_the_configuration() -> None:
    reward = Always()
    make = configured_environment({"_target_": f"{__name__}.Counting", "turns": 3}, reward)
    first, second = make(), make()
    assert first is not second
    assert isinstance(first, Counting)
    assert (first.turns, first.reward) == (3, reward)


def test_an_argument_named_reward_that_the_configuration_sets_is_its_own() -> None:
    node = {"_target_": f"{__name__}.Counting", "turns": 3, "reward": 2.5}
    assert not takes_reward(node)
    made = configured_environment(node, Always())()
    assert isinstance(made, Counting)
    assert made.reward == 2.5


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": f"{__name__}.Counting", "turn": 3}, r"env\.turn.*turns"),
        ({"_target_": f"{__name__}.WithoutClose"}, "has no method close; an environment has reset, step and close"),
        ({"_target_": f"{__name__}.Blocking", "turns": 1}, "step cannot be awaited; write it as `async def step`"),
        ({"_target_": f"{__name__}.no_class"}, "must be a class; every sample gets an instance of its own"),
        ({"_target_": "rlscale.envs.environment.SingelTurn"}, "did you mean SingleTurn"),
        ({}, "env._target_ is missing"),
    ],
)
def test_a_class_that_is_not_an_environment_is_refused_with_what_to_change(node: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configured_environment(node, None)
