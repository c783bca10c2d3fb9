"""Calling the reward without blocking the rollout: in threads or in processes, with a time limit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Protocol

from rlscale.config.schema.reward import RewardConfig
from rlscale.data.sample import Prompt, Sample
from rlscale.envs.processes import ProcessPool
from rlscale.envs.reward import RewardCall, RewardFailed, build_reward, extras_of, label_check
from rlscale.envs.threads import ThreadPool


class Pool(Protocol):
    """Something that calls the reward elsewhere; at most `size` calls at a time."""

    size: int

    async def call(self, arguments: RewardCall, timeout_s: float) -> Any:
        """What the reward returns or raises; TimeoutError past `timeout_s` seconds of its own running time."""
        ...

    def close(self) -> None: ...


class RewardWorker:
    """Scores samples in the background: `reward.workers` processes, or threads of this process when that is 0."""

    def __init__(self, config: RewardConfig) -> None:
        """UserError if the reward cannot be built."""
        reward = build_reward(config)
        self.check_label = label_check(reward)
        """What the reward says of labels before it is asked to judge by them, if it does; see ChecksLabels."""
        self._extras = extras_of(reward)
        self._timeout_s = config.timeout_s
        self._pool: Pool = ProcessPool(config.workers, config.function) if config.workers else ThreadPool(reward)
        self._slots = asyncio.Semaphore(self._pool.size)

    async def score(self, sample: Sample, prompt: Prompt) -> float:
        """The reward of the sample's text. RewardFailed if it raises, takes too long or gives no finite number."""
        arguments = RewardCall((sample.text, prompt.label, prompt.info), self._named(sample, prompt))
        async with self._slots:
            try:
                value = await self._pool.call(arguments, self._timeout_s)
            except RewardFailed:
                raise
            except TimeoutError as error:
                raise RewardFailed(f"the reward took over reward.timeout_s={self._timeout_s:g} seconds") from error
            except Exception as error:
                raise RewardFailed(f"the reward raised {type(error).__name__}: {error}") from error
        if not isinstance(value, Real) or not math.isfinite(value):
            raise RewardFailed(f"the reward returned {value!r} instead of a finite number")
        return float(value)

    def _named(self, sample: Sample, prompt: Prompt) -> dict[str, Any]:
        all_extras: dict[str, Callable[[], Any]] = {
            "raw_response": lambda: sample.raw_text,
            "prompt": lambda: prompt.text,
            "messages": lambda: [dict(message) for message in prompt.messages],
            "tokens": lambda: sample.tokens[sample.prompt_length :].tolist(),
        }
        return {name: all_extras[name]() for name in self._extras}

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
