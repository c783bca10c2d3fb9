"""What is generated and scored in a simulation: prompts of a given size, and an environment that draws its reward."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from rlscale.config.schema import Config
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.data_config import CustomData
from rlscale.config.schema.simulator_config import SimulationConfig
from rlscale.data.prompts.sources import RawPrompt, Stream
from rlscale.data.sample import Prompt
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.serve.simulator.token_stream import uniform

_CHARACTERS = "0123456789+="
_EPOCH = 1_000_000
_REWARDS = 7
"""Keeps their draws apart from those of lengths and faults."""
_HERE = "rlscale.run.simulation.simulated_workload"


class SimulatedPrompts(Stream):
    """Different prompts, all of the same number of tokens."""

    uniform = True

    def __init__(self, tokens: int) -> None:
        super().__init__(_EPOCH, shuffle=False, seed=0)
        self._digits = tokens - 1  # the chat template opens the assistant's turn with one token

    def item(self, number: int, index: int) -> RawPrompt:
        """The number of the prompt, in as many digits."""
        return RawPrompt(index=index, id=str(index), prompt=str(index).zfill(self._digits)[-self._digits :])


class SimulatedEnvironment(Environment):
    """One response, whose reward is 1 or 0 by a seeded draw, after a while."""

    def __init__(self, solved: float, seconds: float) -> None:
        self._solved, self._seconds = solved, seconds

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """The prompt as it is."""
        self._drawn = uniform(_REWARDS, seed)
        return Start()

    async def step(self, action: Action) -> Step:
        """The end of the episode."""
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return Step(reward=float(self._drawn < self._solved), done=True)

    async def close(self) -> None:
        """Nothing is held."""


def rollout_spec(config: Config, simulation: SimulationConfig, engines: int, folder: Path) -> RolloutSpec:
    """The specification of the run's rollout service with simulated data, tokenizer (made in `folder`) and rewards."""
    character_tokenizer(_CHARACTERS, 64).save_pretrained(folder)
    tokens = simulation.prompt_tokens or max(2, config.rollout.max_prompt_tokens // 2)
    return RolloutSpec(
        rollout=replace(config.rollout, engines=engines, engine_groups={}, engine_urls=[]),
        reward=config.reward,
        data=CustomData(source={TARGET: f"{_HERE}.SimulatedPrompts", "tokens": tokens}),
        eval=config.eval,
        seed=config.run.seed,
        tokenizer_folder=str(folder),
        overlong=config.algo.overlong,
        refill=config.algo.refill,
        buffer=config.buffer,
        env={
            TARGET: f"{_HERE}.SimulatedEnvironment",
            "solved": simulation.solved,
            "seconds": simulation.reward_s,
        },
    )
