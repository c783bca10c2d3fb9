"""Episodes of agents: one talks to the policy until it is done, and its calls become one sample."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt, Sample
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.environment import Action, Call, Environment, Step
from rlscale.envs.reward import RewardFailed
from rlscale.envs.score import score_of
from rlscale.rollout.endpoint.agent import Agent
from rlscale.rollout.endpoint.agent_session import Limits, Policy, Session
from rlscale.rollout.endpoint.dialect import Refusal
from rlscale.rollout.endpoint.endpoint_server import EndpointServer
from rlscale.rollout.episode import Judging, Place, SampleFailed
from rlscale.rollout.failures import FailureRate

_GRACE_S = 5.0
"""Seconds after its deadline that an agent has to take the refusal of its calls and say what it has."""

_log = logging.getLogger(__name__)


class AgentEpisodes:
    """Plays episodes as `Episodes` does, with an agent in place of an environment's turns.

    What an agent leaves without a reward is judged by the environment (`judging.environment`) as if its last answer
    were the only turn. `timeout_s`: seconds that an agent has.
    """

    def __init__(
        self,
        endpoint: EndpointServer,
        agent: Callable[[], Agent],
        policy: Policy,
        limits: Limits,
        timeout_s: float,
        request_failures: FailureRate,
        judging: Judging,
    ) -> None:
        self._endpoint, self._agent, self._policy, self._limits = endpoint, agent, policy, limits
        self._timeout_s, self._requests, self._judging = timeout_s, request_failures, judging
        self._told: set[str] = set()
        self.samples = 0
        self.tokens = 0

    async def play(self, prompt: Prompt, place: Place, admission: AbstractAsyncContextManager[None]) -> Sample:
        """A sample of the prompt's group, with its reward. SampleFailed if a part failed; UserError if too many did."""
        place.attempt.turn_over()  # no request waits for an engine until the agent calls
        policy = self._policy_of(prompt)
        session = Session(policy, self._limits, place.seed, place.attempt, admission)
        given = await self._run(session, prompt, place)
        sample = self._sample(session, policy.encoder, prompt, place)
        if given is None:
            given = await self._judge(session, policy.encoder, prompt, place, sample)
        sample.reward = self._score(given)
        if self._judging.shaping is not None:
            sample.info["task_reward"] = sample.reward
            sample.reward += self._judging.shaping(sample)
        self._requests.success()
        self.samples += 1
        self.tokens += int(sample.loss_mask.sum())
        return sample

    async def _run(self, session: Session, prompt: Prompt, place: Place) -> Any:
        """What the agent returned; 0 where the end of its budget brought it down. SampleFailed if it failed."""
        given: Any = None
        raised: BaseException | None = None
        try:
            async with asyncio.timeout(self._timeout_s + _GRACE_S) as timer, self._endpoint.open(session) as visit:
                deadline = asyncio.create_task(self._expire(session))
                try:
                    given = await self._agent().run(prompt, visit.base_url, visit.key, place.seed(0))
                finally:
                    deadline.cancel()
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raised = error
            if timer.expired() or session.late:
                raised = RewardFailed(f"it took over agent.timeout_s={self._timeout_s:g} seconds")
        if session.failed:
            self._requests.failure(session.failed)
            raise SampleFailed(session.failed, "request")
        if raised is not None and session.over_budget and session.tree.turns:
            return 0.0
        if raised is not None:
            raise self._failed(f"the agent failed: {type(raised).__name__} {raised}".strip(), raised) from raised
        if not session.tree.turns:
            raise self._failed("the agent ended without a call of the policy that was answered")
        return given

    async def _expire(self, session: Session) -> None:
        """Refuse calls once the deadline has passed, those under way too."""
        await asyncio.sleep(self._timeout_s)
        refusal = partial(Refusal, 400, "deadline", f"agent.timeout_s={self._timeout_s:g} seconds have passed")
        session.late = True
        await session.close(refusal)

    def _sample(self, session: Session, encoder: PromptEncoder, prompt: Prompt, place: Place) -> Sample:
        tree = session.tree
        sample = tree.trajectory().sample(prompt, place.index)
        sample.text, sample.raw_text = encoder.decode(sample.tokens[sample.prompt_length :])
        sample.finish_reason = "length" if session.over_budget else session.finish
        sample.info |= {
            "turns": len(tree.turns),
            "segments": len(sample.segments),
            "duplication": round(tree.duplication(), 3),
            "repeated_calls": session.repeated,
            "forgotten_thinking": tree.forgotten,
            **({"tools": tree.tools} if tree.tools else {}),
            **({"unheeded": self._unheeded(session)} if session.unheeded else {}),
        }
        return sample

    def _unheeded(self, session: Session) -> list[str]:
        """Names of what the agent asked for and did not get; each is written down once."""
        for name in session.unheeded.keys() - self._told:
            self._told.add(name)
            _log.warning(
                "an agent asks for %s=%s: that is the run's to decide (rollout.*, the chat template) and is not heeded",
                name,
                session.unheeded[name],
            )
        return sorted(session.unheeded)

    async def _judge(
        self, session: Session, encoder: PromptEncoder, prompt: Prompt, place: Place, sample: Sample
    ) -> float:
        """The reward of the last answer by the environment. SampleFailed if it fails, or wants another turn."""
        last = session.tree.turns[-1]
        raw_text = encoder.decode(last.generation.tokens)[1]
        tokens = last.generation.tokens.tolist()
        answer = last.answer
        calls = [Call(call.name, json.loads(call.arguments)) for call in answer.calls]
        action = Action(answer.text, raw_text, tokens, sample.finish_reason, answer.thinking or "", calls)
        environment = self._judging.environment()
        try:
            async with asyncio.timeout(self._judging.limit_s):
                await environment.reset(prompt, place.seed(0))
                step = await environment.step(action)
            if not isinstance(step, Step) or not step.done:
                raise RewardFailed("the agent returned no reward, and env does not end with the first answer")
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(f"the agent's last answer could not be judged: {error}", error) from error
        finally:
            await self._close(environment)
        sample.info |= step.info
        return step.reward

    async def _close(self, environment: Environment) -> None:
        try:
            await environment.close()
        except Exception as error:  # the sample is judged already
            _log.error("an environment could not be closed: %s", error, exc_info=error)

    def _score(self, given: Any) -> float:
        try:
            score = score_of(given)
        except ValueError as error:
            raise self._failed(str(error)) from error
        self._judging.failures.success()
        return score

    def _policy_of(self, prompt: Prompt) -> Policy:
        """The policy as the prompt's source has it."""
        sampling, bound = self._policy.sampling.of_source(prompt.source), prompt.max_response_tokens
        if bound is not None:
            sampling = replace(sampling, max_new_tokens=min(bound, sampling.max_new_tokens))
        return replace(self._policy, encoder=self._policy.encoder.of(prompt), sampling=sampling)

    def _failed(self, reason: str, error: BaseException | None = None) -> SampleFailed:
        """The failure, counted and written down. UserError if too many failed."""
        _log.error("an agent failed: %s", reason, exc_info=error)
        self._judging.failures.failure(reason)
        return SampleFailed(reason)
