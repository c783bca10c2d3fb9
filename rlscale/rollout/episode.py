"""From a prompt to one scored sample: the turns of the policy, and what the environment answers to each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlscale.config.errors import UserError
from rlscale.data.batches.fields import TURN_REWARD
from rlscale.data.prompts.messages import tool_names
from rlscale.data.sample import Prompt, Sample
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.envs.reward import RewardFailed
from rlscale.envs.score import score_of
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.brought_columns import brought_columns
from rlscale.rollout.conversation import Conversation, EpisodeRules
from rlscale.rollout.endpoint.output_parser import OutputParser
from rlscale.rollout.engines.continued import Continued
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.failures import FailureRate
from rlscale.rollout.time_limit import TooLong, within
from rlscale.rollout.trajectory import Trajectory
from rlscale.rollout.turn_reading import read_action

_log = logging.getLogger(__name__)
T = TypeVar("T")


class SampleFailed(Exception):
    """The sample could not be generated or scored; counted already. `where`: "request" or "reward"."""

    def __init__(self, reason: str, where: str = "reward") -> None:
        super().__init__(reason)
        self.where = where


@dataclass(frozen=True)
class Place:
    """Which sample is made: what differs between the samples of a run."""

    index: int
    """Number of the sample in its prompt's group."""
    seed: Callable[[int], int]
    """The seed of each turn, counted from 0."""
    attempt: Attempt
    """Is told of every request and its answer."""


@dataclass(frozen=True)
class Judging:
    """What becomes of a response besides its tokens.

    `shaping` gives what is added to a sample's reward; the reward before is in `sample.info["task_reward"]`. `limit_s`:
    seconds that the environment has for each call, None where it has a limit of its own. `credits_turns`: whether
    samples bring the reward of each turn as a column of their tokens.
    """

    environment: Callable[[], Environment]
    failures: FailureRate
    shaping: Callable[[Sample], float] | None = None
    limit_s: float | None = None
    credits_turns: bool = False


class Player(Protocol):
    """Plays episodes, each of which becomes one sample. `samples` and their generated `tokens` are counted."""

    samples: int
    tokens: int

    async def play(self, prompt: Prompt, place: Place, admission: AbstractAsyncContextManager[None]) -> Sample:
        """A sample of the prompt's group, with its reward. SampleFailed if a part failed; UserError if too many did."""
        ...


class Episodes:
    """Plays episodes, each of which becomes one sample.

    Only requests pass `admission`; what the environment does waits for nobody. `sampling.max_new_tokens` bounds a
    sample's tokens after its prompt, observed ones included: an observation that leaves no room for another turn ends
    the episode as cut off. With `experts` the samples bring the engine's choice of experts.
    """

    def __init__(
        self,
        engines: Continued,
        encoder: PromptEncoder,
        sampling: SamplingParams,
        request_failures: FailureRate,
        judging: Judging,
        experts: ExpertSizes | None = None,
        rules: EpisodeRules | None = None,
        parser: OutputParser | None = None,
    ) -> None:
        """`parser` tells thinking and calls from the text of a turn, where it reads anything."""
        self._engines = engines
        self._encoder = encoder
        self._sampling = sampling
        self._requests = request_failures
        self._judging = judging
        self._experts = experts
        self._rules = rules or EpisodeRules()
        self._parser = parser if parser is not None and parser.reads else None
        self.samples = 0
        self.tokens = 0

    async def play(self, prompt: Prompt, place: Place, admission: AbstractAsyncContextManager[None]) -> Sample:
        """A sample of the prompt's group, with its reward. SampleFailed if a part failed; UserError if too many did."""
        environment = self._judging.environment()
        try:
            start = await self._ask(environment.reset(prompt, place.seed(0)), Start)
            prompt = self._shown(prompt, start)
            sample = await self._turns(environment, start, prompt, place, admission)
        finally:
            await self._close(environment)
        if self._judging.shaping is not None:
            sample.info["task_reward"] = sample.reward
            sample.reward += self._judging.shaping(sample)
        self.samples += 1
        self.tokens += sample.response_length
        return sample

    async def _turns(
        self,
        environment: Environment,
        start: Start,
        prompt: Prompt,
        place: Place,
        admission: AbstractAsyncContextManager[None],
    ) -> Sample:
        encoder = self._encoder.of(prompt)
        conversation = Conversation(prompt, encoder, self._rules.history)
        trajectory = conversation.trajectory
        began = asyncio.get_running_loop().time()
        rewards: list[float] = []
        info: dict[str, Any] = {"tools": tool_names(start.tools)} if start.tools else {}
        columns: dict[str, float] = {}
        while True:
            generation = await self._generate(prompt, trajectory, place, len(rewards), admission)
            text, raw_text = encoder.decode(generation.tokens)
            action = Action(text, raw_text, generation.tokens.tolist(), generation.finish_reason)
            read = None
            if self._parser is not None:
                action = read = await self._read(self._parser, trajectory.tokens, generation, prompt)
            conversation.said(generation, text, read)
            step = await self._ask(environment.step(action), Step)
            rewards.append(self._reward(step))
            info |= step.info
            columns |= step.columns
            if step.done:
                finish = generation.finish_reason
                break
            if not step.messages:
                raise self._failed("the environment's step has no messages and is not done")
            if self._over(len(rewards), start.max_turns, began) or not self._answered(conversation, step):
                finish = "length"
                break
        sample = trajectory.sample(prompt, place.index)
        sample.finish_reason, sample.info = finish, info
        sample.reward = sum(rewards[1:], rewards[0])
        sample.columns |= brought_columns(columns)
        if self._judging.credits_turns:
            sample.columns[TURN_REWARD.name] = trajectory.at_ends_of_turns(rewards)
        sample.text, sample.raw_text = action.text, action.raw_text  # what was judged, so that it can be judged again
        if len(rewards) > 1:
            info["turn_rewards"] = rewards
            sample.text, sample.raw_text = encoder.decode(sample.tokens[sample.prompt_length :])
        return sample

    async def _generate(
        self,
        prompt: Prompt,
        trajectory: Trajectory,
        place: Place,
        turn: int,
        admission: AbstractAsyncContextManager[None],
    ) -> Generation:
        """The next turn of the policy, counted. SampleFailed where it cannot be used."""
        left = trajectory.left(self._sampling.max_new_tokens)
        sampling = self._sampling.of_source(prompt.source).of_length(min(left, self._rules.turn_tokens or left))
        try:
            generation = await self._engines.generate(
                trajectory.tokens, sampling, place.seed(turn), admission, place.attempt, self._experts
            )
        except RequestFailed as error:
            self._requests.failure(str(error))
            raise SampleFailed(str(error), "request") from error
        place.attempt.turn_over()
        self._requests.success()
        return generation

    async def _read(
        self, parser: OutputParser, context: NDArray[np.int32], generation: Generation, prompt: Prompt
    ) -> Action:
        """The turn behind `context` as the parser reads it. SampleFailed where that cannot be asked."""
        try:
            return await read_action(self._encoder.of(prompt), context, generation, parser, prompt.tools)
        except RequestFailed as error:
            self._requests.failure(str(error))
            raise SampleFailed(str(error), "request") from error

    async def _ask(self, call: Coroutine[Any, Any, T], kind: type[T]) -> T:
        """What a call of the environment gives, counted. SampleFailed if it fails, takes too long or gives another."""
        limit = self._judging.limit_s
        try:
            given = await within(limit, call)
            if not isinstance(given, kind):
                raise RewardFailed(f"the environment returned {type(given).__name__} instead of a {kind.__name__}")
        except UserError:
            raise
        except TooLong as error:
            raise self._failed(f"the environment took over rollout.step_timeout_s={limit} seconds") from error
        except RewardFailed as error:
            raise self._failed(str(error), error) from error
        except (Exception, SystemExit) as error:
            raise self._failed(f"the environment raised {type(error).__name__}: {error}", error) from error
        return given

    def _reward(self, step: Step) -> float:
        """The step's reward as a number, and the step counted."""
        try:
            reward = score_of(step.reward)
        except ValueError as error:
            raise self._failed(str(error)) from error
        self._judging.failures.success()
        return reward

    async def _close(self, environment: Environment) -> None:
        """The sample is complete by now, or lost already: a failure is written down and changes nothing."""
        try:
            await within(self._judging.limit_s, environment.close())
        except Exception as error:
            _log.error("an environment could not be closed: %s", error, exc_info=error)

    def _shown(self, prompt: Prompt, start: Start) -> Prompt:
        """The prompt that the episode begins with."""
        if start.messages is None and not start.tools:
            return prompt
        try:
            return self._encoder.of(prompt).encode_start(prompt, start.messages, start.tools)
        except ValueError as error:
            raise self._failed(f"the environment's start {error}") from error

    def _over(self, turns: int, most: int | None, began: float) -> bool:
        """Whether an episode may have no further turn after so many of `most`."""
        rules = self._rules
        late = rules.seconds is not None and asyncio.get_running_loop().time() - began > rules.seconds
        return turns in (most, rules.turns) or late

    def _answered(self, conversation: Conversation, step: Step) -> bool:
        """Whether the policy, shown the step's messages, has room for another turn."""
        try:
            return conversation.answered(step, self._sampling.max_new_tokens)
        except ValueError as error:
            raise self._failed(f"the environment's step {error}") from error

    def _failed(self, reason: str, error: BaseException | None = None) -> SampleFailed:
        """The failure, counted, and written down where an error's place matters. UserError if too many failed."""
        if error is not None and not isinstance(error.__cause__, TimeoutError):
            _log.error("a reward failed: %s", reason, exc_info=error)
        self._judging.failures.failure(reason)
        return SampleFailed(reason)
