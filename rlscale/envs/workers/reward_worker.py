"""Calling the reward without blocking the rollout: in threads, in processes or on the event loop, with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action
from rlscale.envs.reward import Reward, RewardCall, RewardFailed, build_reward, extras_of, label_check
from rlscale.envs.score import Score
from rlscale.envs.workers.calling import Outcome, is_async
from rlscale.envs.workers.processes import ProcessPool, WorkerDied, fitting_workers
from rlscale.envs.workers.threads import LoopPool, ThreadPool

QUICK = tuple(
    f"rlscale.envs.rewards.{name}"
    for name in (
        "exact.ExactAnswer",
        "none.no_reward",
        "multiple_choice.ChoiceAnswer",
        "exact_match.ExactMatch",
        "f1.F1",
    )
)
"""Rewards that take microseconds and cannot hang, so that a process would only cost."""


class Pool(Protocol):
    """Something that calls the reward elsewhere; at most `size` calls at a time."""

    size: int

    async def call(self, arguments: RewardCall, timeout_s: float) -> Outcome:
        """What came of the call; RewardFailed where it got none, TimeoutError past `timeout_s` of its own time."""
        ...

    def close(self) -> None: ...


class RewardWorker:
    """Scores responses in the background.

    `reward.workers` processes, or with 0 threads of this process. With null: processes, as many as suit the machine;
    threads for `QUICK` rewards; the event loop for a reward that is `async def`.

    Failed is infrastructure only. Where a response makes the reward of a process raise, hang or die, it is judged once
    more in a fresh process: the same end means that the response is wrong, another bad end that the infrastructure
    failed, and a score is its score. Not before the reward has given its first score, because until then nothing tells
    that it works at all.
    """

    def __init__(self, config: RewardConfig) -> None:
        """UserError if the reward cannot be built."""
        reward = build_reward(config)
        self.check_label = label_check(reward)
        """What the reward says of labels before it is asked to judge by them, if it does; see ChecksLabels."""
        self._extras = extras_of(reward)
        self._timeout_s = config.timeout_s
        self._pool = _pool(config, reward)
        self._slots = asyncio.Semaphore(self._pool.size)
        self._crash_score = config.crash_score
        self._works = False

    async def score(self, action: Action, prompt: Prompt) -> Score:
        """The reward of a response. RewardFailed if the reward cannot tell, or gives no finite number."""
        arguments = RewardCall((action.text, prompt.label, prompt.info), self._named(action, prompt))
        async with self._slots:
            outcome = await self._outcome(arguments)
            if outcome.crash and self._works and isinstance(self._pool, ProcessPool):
                again = await self._outcome(arguments, fresh=True)
                if again.crash == outcome.crash:
                    return Score(self._crash_score, crash=outcome.reason)
                outcome = again
        if outcome.score is None:
            failed = RewardFailed(outcome.reason)
            if outcome.trace:
                failed.add_note(f"In the reward:\n{outcome.trace}")  # it may have been raised in another process
            raise failed
        self._works = True
        if outcome.score.crash:  # a reward that can tell by itself that the response is to blame
            return Score(self._crash_score, crash=outcome.score.crash)
        return outcome.score

    async def _outcome(self, arguments: RewardCall, fresh: bool = False) -> Outcome:
        """What came of a call, whatever its end."""
        pool, limit_s = self._pool, self._timeout_s
        try:
            if isinstance(pool, ProcessPool):
                return await pool.call(arguments, limit_s, fresh)
            return await pool.call(arguments, limit_s)
        except TimeoutError:
            return Outcome(None, f"the reward took over reward.timeout_s={limit_s:g} seconds", crash="timeout")
        except WorkerDied as error:
            return Outcome(None, str(error), crash=str(error))

    def _named(self, action: Action, prompt: Prompt) -> dict[str, Any]:
        all_extras: dict[str, Callable[[], Any]] = {
            "raw_response": lambda: action.raw_text,
            "prompt": lambda: prompt.text,
            "messages": lambda: [dict(message) for message in prompt.messages],
            "tokens": lambda: list(action.tokens),
        }
        return {name: all_extras[name]() for name in self._extras}

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


def _pool(config: RewardConfig, reward: Reward) -> Pool:
    if config.workers:
        return ProcessPool(config.workers, config.function)
    if is_async(reward):
        return LoopPool(reward)
    if config.workers == 0 or config.function.get("_target_") in QUICK:
        return ThreadPool(reward)
    return ProcessPool(fitting_workers(), config.function)
