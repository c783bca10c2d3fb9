"""Turns per second through the layer of environments: `python benchmarks/environment_turns.py`, some seconds.

`--episodes` run at the same time, of `--turns` turns each, twice. Once something in the engine's place answers at once,
so that all of the time is what the layer of environments spends between two answers: reading the response, the
environment's step, the chat template and the tokens of what it says, masks, versions and log-probs. Then they run on
the simulated engine, through the client: its requests, their bodies and the simulator's own computing come on top.
Everything happens in one thread; by processor time, other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from typing import Any, cast

import numpy as np
from machine import describe_machine, load_average
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from simulated import simulated_client

from rlscale.config.schema.data_config import DataConfig
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.sample import Prompt
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.episode import Episodes, Judging, Place
from rlscale.rollout.failures import FailureRate

CHARACTERS = "abcdefghijklmnopqrstuvwxyz 0123456789?.,"


class Counting(Environment):
    """Answers every turn by how many there were."""

    def __init__(self, turns: int) -> None:
        self._turns, self._turn = turns, 0

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """The prompt as it is."""
        return Start()

    async def step(self, action: Action) -> Step:
        """A message of some words."""
        self._turn += 1
        said = f"that was turn {self._turn} with {len(action.text)} letters, what now?"
        return Step([{"role": "user", "content": said}], reward=0.1, done=self._turn == self._turns)

    async def close(self) -> None:
        """Nothing to free."""


class AtOnce:
    """An engine that answers at once: `length` tokens, the last of which ends the turn."""

    def __init__(self, length: int, end: int) -> None:
        self._tokens = np.arange(length, dtype=np.int32) % 26 + 4
        self._tokens[-1] = end

    async def generate(self, tokens: NDArray[np.int32], sampling: SamplingParams, seed: int, **kept: Any) -> Generation:
        """The same tokens for any prompt."""
        await asyncio.sleep(0)
        n = len(self._tokens)
        return Generation(self._tokens, np.full(n, -0.5, np.float32), "stop", np.zeros(n, np.int32))


async def played(encoder: PromptEncoder, engine: EngineClient, asked: argparse.Namespace) -> tuple[float, float, int]:
    """Seconds for all episodes, by the wall and of the processor, and the tokens of one."""
    episodes, turns, length = asked.episodes, asked.turns, asked.length
    failures = FailureRate("rewards", "reward.max_failure_rate", 0.1, 100)
    player = Episodes(
        Continued(engine, Cuts()),
        encoder,
        SamplingParams(100 * turns + length * turns),
        failures,
        Judging(lambda: Counting(turns), failures, limit_s=60.0),
    )

    async def one(index: int) -> int:
        prompt = encoder.encode(RawPrompt(index, str(index), "how many turns?", ""))
        assert prompt is not None
        place = Place(index, lambda turn: turn, Attempt(lambda: -1))
        sample = await player.play(prompt, place, contextlib.nullcontext())
        assert len(sample.info["turn_rewards"]) == turns
        return len(sample.tokens)

    await one(0)
    started, used = time.perf_counter(), time.process_time()
    tokens = await asyncio.gather(*(one(index) for index in range(episodes)))
    return time.perf_counter() - started, time.process_time() - used, tokens[0]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Benchmark of turns through environments.")
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--length", type=int, default=32, help="tokens of a turn of the policy")
    asked = parser.parse_args()
    before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        character_tokenizer(CHARACTERS, 10_000).save_pretrained(folder)
        encoder = PromptEncoder(folder, DataConfig(), 100)
    engines = {
        "the layer alone": cast(EngineClient, AtOnce(asked.length, encoder.end_of_turn.token)),
        "on the simulator, with client and engine": simulated_client(asked.episodes, asked.length, len(CHARACTERS)),
    }
    table = Table("turns through environments", "", box=box.MARKDOWN)
    turns, rates = asked.episodes * asked.turns, dict[str, str]()
    for name, engine in engines.items():
        seconds, used, tokens = asyncio.run(played(encoder, engine, asked))
        rates[f"{name}: turns/s, per second of processor time"] = f"{turns / seconds:,.0f}, {turns / used:,.0f}"
    for key, value in {**describe_machine(), "load average at start, at end": f"{before}, {load_average()}"}.items():
        table.add_row(key, value)
    table.add_row("episodes at a time, turns, tokens of an episode", f"{asked.episodes}, {asked.turns}, {tokens}")
    for key, value in rates.items():
        table.add_row(key, value)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
