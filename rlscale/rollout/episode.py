"""From a prompt to one scored sample: request, text, reward."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import numpy as np

from rlscale.data.sample import Prompt, Sample
from rlscale.envs.reward import RewardFailed
from rlscale.envs.workers.reward_worker import RewardWorker
from rlscale.rollout.engines.client import EngineClient, RequestFailed, SamplingParams
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.failures import FailureRate

_log = logging.getLogger(__name__)


class SampleFailed(Exception):
    """The sample could not be generated or scored; counted already."""


class Sampler:
    """Generates and scores single samples. The reward is computed after the request has left the engine.

    `decode` gives the text of response tokens without special tokens, and with them. What `shaping` gives for a sample
    is added to its reward; the reward before is in `sample.info["task_reward"]`. With `experts` the samples bring the
    engine's choice of experts.
    """

    def __init__(
        self,
        client: EngineClient,
        rewards: RewardWorker,
        decode: Callable[[np.ndarray], tuple[str, str]],
        sampling: SamplingParams,
        request_failures: FailureRate,
        reward_failures: FailureRate,
        shaping: Callable[[Sample], float] | None = None,
        experts: ExpertSizes | None = None,
    ) -> None:
        self._client = client
        self._rewards = rewards
        self._decode = decode
        self._sampling = sampling
        self._requests = request_failures
        self._scores = reward_failures
        self._shaping = shaping
        self._experts = experts
        self.samples = 0
        self.tokens = 0

    async def sample(
        self,
        prompt: Prompt,
        index: int,
        seed: int,
        admission: AbstractAsyncContextManager[None],
        version: Callable[[], int],
    ) -> Sample:
        """Sample number `index` of the prompt's group, with its reward.

        `version` is asked for the weight version when the request enters the engine; the engine reports its own,
        which must not be older. SampleFailed if a part failed; UserError if too many did.
        """
        try:
            async with admission:
                current = version()
                generation = await self._client.generate(prompt.tokens, self._sampling, seed, experts=self._experts)
            if generation.finish_reason == "abort":
                raise RequestFailed(f"the engine aborted the request: {generation.message}")
            if not len(generation.tokens):
                raise RequestFailed("the engine answered without a token")
            if bad := int((~np.isfinite(generation.logprobs)).sum()):
                raise RequestFailed(f"{bad} of the {len(generation.logprobs)} log-probs in the answer are not finite")
            if generation.version is None or generation.version < current:
                # An engine that was restarted and has not been given the current weights.
                raise RequestFailed(f"the engine holds weight version {generation.version}, not {current}")
        except RequestFailed as error:
            self._requests.failure(str(error))
            raise SampleFailed(str(error)) from error
        self._requests.success()
        text, raw_text = self._decode(generation.tokens)
        sample = Sample.from_response(
            prompt,
            index,
            generation.tokens,
            generation.logprobs,
            generation.version,
            generation.finish_reason,
            text,
            generation.routed_experts,
            raw_text,
        )
        try:
            sample.reward = await self._rewards.score(sample, prompt)
        except RewardFailed as error:
            if not isinstance(error.__cause__, TimeoutError):
                _log.error("a reward failed: %s", error, exc_info=error)
            self._scores.failure(str(error))
            raise SampleFailed(str(error)) from error
        self._scores.success()
        if self._shaping is not None:
            sample.info["task_reward"] = sample.reward
            sample.reward += self._shaping(sample)
        self.samples += 1
        self.tokens += len(generation.tokens)
        return sample
