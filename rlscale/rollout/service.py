"""The rollout: a long-lived background service that keeps engines full, scores samples and hands out batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rlscale.config.derived.adapter_names import adapter_name
from rlscale.config.derived.eval_sets import eval_sets
from rlscale.config.derived.source_sampling import sampled_apart
from rlscale.config.derived.sticky_routing import is_sticky
from rlscale.config.schema.rollout_config import Concurrency, OnSync
from rlscale.data.buffer import GroupBuffer
from rlscale.data.configured_encoder import build_encoder
from rlscale.data.configured_source import training_source
from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.target import build_target, instantiate
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.configured_environment import Environments
from rlscale.envs.configured_group_rewards import GroupRewards
from rlscale.envs.overlong import OverlongShaping
from rlscale.envs.rewards_by_source import common_reward, own_rewards
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.capacity import Capacity
from rlscale.rollout.conversation import EpisodeRules
from rlscale.rollout.endpoint.agents import Agents
from rlscale.rollout.endpoint.output_parser import EngineParser
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.concurrency import AdaptiveConcurrency
from rlscale.rollout.engines.connection import Connect, HttpConnection
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.departure import empty, give_up
from rlscale.rollout.engines.engine_loads import EngineLoads
from rlscale.rollout.engines.engine_options import all_send_parts
from rlscale.rollout.engines.kept_cache import KeptCache, keep_their_cache
from rlscale.rollout.engines.on_sync_modes import on_sync_mode
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.episode import Episodes, Judging, Place, Player
from rlscale.rollout.evaluation import EvalPrompts, EvalResult, eval_encoder, eval_prompts, evaluate
from rlscale.rollout.failures import FailureRate
from rlscale.rollout.group_journal import GroupJournal
from rlscale.rollout.group_judging import GroupJudging
from rlscale.rollout.group_origin import origin_of
from rlscale.rollout.refill import Refill
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.rollout_stats import RolloutStats
from rlscale.rollout.scheduler import Scheduler
from rlscale.rollout.seeds import request_seed
from rlscale.rollout.watchdog import LoopWatchdog

_ASKED_S = 10.0
"""Seconds that engines may take to say what they can do."""
_JUDGINGS = 32
"""Judgings of groups that the rate of their failures is told by, at least: one that fails stops no small run."""


class RolloutService:
    """Generates groups ahead of the trainer, as far as `Capacity` allows.

    Life: `start`, perhaps `load_state_dict`, `resume(version)`, then for every iteration `next_batch`, and around a
    weight sync `pause` and `resume(new version)`. All methods run on one event loop, which nothing here blocks.

    The service connects its parts: the queue of prompts, the client of the engines, episodes, which make a sample of a
    prompt, and the scheduler, which decides what is generated when and what leaves in which batch.
    """

    def __init__(self, spec: RolloutSpec, connect: Connect = HttpConnection) -> None:
        """UserError if data, tokenizer or reward are unusable. `connect`: how requests reach the engines."""
        rollout = spec.rollout
        self._spec = spec
        self._connect = connect
        self._encoder = build_encoder(
            spec.tokenizer_folder, spec.data, rollout.max_prompt_tokens, spec.chat_template, "data"
        )
        self._environments = Environments(
            spec.env,
            common_reward(spec.data, spec.reward, spec.eval),
            rollout.step_timeout_s,
            own_rewards(spec.data, spec.eval),
        )
        self._agents = Agents.of(spec.agent, EpisodeRules.of(rollout))
        self._source = training_source(spec.data)
        self._queue = PromptQueue(
            self._source, self._encoder, "data", spec.data.max_bad_rate, self._environments.check_label
        )
        window = rollout.groups_per_iteration * rollout.samples_per_group
        self._request_failures = FailureRate("requests", "rollout.max_failure_rate", rollout.max_failure_rate, window)
        self._reward_failures = FailureRate("rewards", "reward.max_failure_rate", spec.reward.max_failure_rate, window)
        judgings = max(rollout.groups_per_iteration, _JUDGINGS)
        self._group_failures = FailureRate(
            "group rewards", "reward.max_failure_rate", spec.reward.max_failure_rate, judgings
        )
        self._group_rewards = GroupRewards(spec.reward, own_rewards(spec.data))
        self._limit = rollout.max_concurrent * rollout.generating_engines
        self._admission = Admission(self._limit, is_open=False)
        self._buffer: GroupBuffer = instantiate(spec.buffer, "buffer")
        self._refill = Refill.of(
            spec.refill,
            rollout.groups_per_iteration,
            build_target(rollout.filter, "rollout.filter", 1),
            Capacity.of(rollout).most_ahead,
        )
        self._journal: GroupJournal | None = None
        if spec.journal:
            origin = origin_of(spec, self._source)
            self._journal = GroupJournal(Path(spec.journal), rollout.max_staleness, spec.journal_ahead, origin)
        self._scheduler = Scheduler(rollout, self._queue, self._buffer, self._refill, self._admission, self._journal)
        self._concurrency: AdaptiveConcurrency | None = None
        self._following: asyncio.Task[None] | None = None
        self._earlier: dict[str, int] = {}  # counters of the run before it was resumed
        self._evaluated: dict[str, tuple[PromptEncoder, EvalPrompts]] = {}  # by the name of the evaluation set

    async def start(self, url: str, api_key: str | None = None) -> None:
        """Connect to the router, or to a single engine. Generation begins with the first `resume`."""
        rollout = self._spec.rollout
        most = rollout.max_concurrent * max(rollout.generating_engines, rollout.engines_at_most or 0)
        self._client = EngineClient(
            url, api_key, rollout.request_timeout_s, rollout.request_retries, 2 * most, self._connect
        )
        self._client.requests.wanted = self._spec.traces
        sticky = is_sticky(rollout, self._spec.env, self._spec.agent)
        if rollout.engine_urls and rollout.on_sync is OnSync.in_place and await keep_their_cache(self._client):
            self._client.kept_cache = KeptCache(self._scheduler.version)
        await self._ask_for_parts()
        self._loads = EngineLoads(self._client)
        self._engines = Continued(self._client, Cuts(), sticky, self._encoder.may_end)
        engines = rollout.generating_engines
        self._on_sync = on_sync_mode(rollout.on_sync, self._admission, self._client, self._engines.cuts, engines)
        apart = sampled_apart(rollout, self._spec.data)
        end, ends = self._encoder.end_of_turn.token, self._encoder.ends
        sampling = SamplingParams.of(rollout, rollout.max_response_tokens, end, apart, self._spec.sampler_words, ends)
        shaping = OverlongShaping.of(self._spec.overlong, rollout.max_response_tokens)
        self._parser = EngineParser(self._client, rollout.tool_parser, rollout.reasoning_parser)
        limit_s, credits_turns = self._environments.limit_s, self._spec.credits_turns
        judging = Judging(self._environments.make, self._reward_failures, shaping, limit_s, credits_turns)
        if self._agents is not None:
            await self._agents.start(self._parser)
        self._episodes = self._player(self._encoder, sampling, self._request_failures, judging, self._spec.experts)
        self._watchdog = LoopWatchdog()
        self._watchdog.start()
        self._scheduler.start(self._play, GroupJudging(self._group_rewards, self._group_failures).judge)
        if rollout.concurrency is Concurrency.adaptive:
            longest = rollout.max_prompt_tokens + rollout.max_response_tokens
            self._concurrency = AdaptiveConcurrency(
                self._admission, self._loads, self._client.preemptions, engines, rollout.max_concurrent, longest
            )
        if self._concurrency is not None or not getattr(asyncio.get_running_loop(), "virtual", False):
            follows = self._concurrency or self._loads  # that nobody reads who has no real time
            self._following = asyncio.create_task(follows.run(), name="loads of the engines")

    async def redirect(self, url: str) -> None:
        """Send requests to `url` from now on, also those that are being sent again."""
        self._client.redirect(url)

    async def leave(self, urls: Sequence[str]) -> None:
        """What is under way in these engines, which the router has left out, is cut off and goes on in others."""
        await empty(self._client, self._engines.cuts, urls)

    async def give_up(self, urls: Sequence[str]) -> None:
        """These engines, which the router has left out, answer no more: what waits for an answer goes on in others."""
        await give_up(self._client, self._engines.cuts, urls)

    async def engines_are(self, count: int) -> None:
        """So many engines generate from now on: as many more or fewer requests are under way."""
        self._limit = self._spec.rollout.max_concurrent * count
        if self._concurrency is None:  # which asks the engines that there are
            self._admission.limit = self._limit
        await self._ask_for_parts()

    async def next_batch(self) -> list[Group]:
        """The next `groups_per_iteration` groups, ordered by prompt index; waits until they are there.

        No token that the loss reads is staler than `max_staleness` for the trainer of the current version. They count
        as trained from now on (see `state_dict`). UserError if too many requests or rewards failed, or the data is
        unusable; RuntimeError when the batch of this version was taken already.
        """
        return await self._scheduler.next_batch()

    async def pause(self) -> None:
        """Make the engines ready for new weights (see `rollout.on_sync`). Rewards go on."""
        await self._on_sync.pause()

    async def drain(self, urls: Sequence[str]) -> None:
        """Make some engines ready for new weights, which the router has left out; see `DrainsEngines`."""
        await self._on_sync.drain(urls)

    async def resume(self, version: int) -> None:
        """Go on generating; the engines hold the weights of `version`, which may be those of the last batch (a run that
        only generates)."""
        if self._concurrency is not None and version != self._scheduler.version:
            self._concurrency.synced()
        self._names(version)
        self._scheduler.resume(version)
        if not self._scheduler.failed:
            self._on_sync.resume()

    async def evaluate(self, version: int, name: str = "") -> EvalResult:
        """Evaluate the weights that the engines hold, also while generation is paused. UserError if too much fails.

        `name`: which evaluation set; "" is `eval.data`.
        """
        self._names(version)
        chosen = eval_sets(self._spec.eval)[name]
        spec = replace(self._spec, eval=chosen.config)
        if name not in self._evaluated:
            encoder = await asyncio.to_thread(eval_encoder, spec, chosen)
            prompts = await asyncio.to_thread(
                eval_prompts, chosen, encoder, self._source, self._environments.check_label
            )
            self._evaluated[name] = encoder, prompts
        encoder, prompts = self._evaluated[name]
        length = spec.eval.max_response_tokens or spec.rollout.max_response_tokens
        window = len(prompts.prompts) * spec.eval.samples_per_prompt
        requests, rewards = (
            FailureRate(f"{what} of the evaluation", f"{key}.max_failure_rate", bound, window)
            for what, key, bound in (
                ("requests", "rollout", spec.rollout.max_failure_rate),
                ("rewards", "reward", spec.reward.max_failure_rate),
            )
        )
        sampling = SamplingParams.of(spec.eval, length, encoder.end_of_turn.token)
        judging = Judging(self._environments.make, rewards, limit_s=self._environments.limit_s)
        episodes = self._player(encoder, sampling, requests, judging)
        return await evaluate(spec, prompts, episodes, Admission(self._limit), version)

    async def state_dict(self, trained: bool = True) -> dict[str, Any]:
        """What a run needs to go on: plain values, arrays, prompts and samples.

        The buffer is in it with its samples, and so are groups that refill has set aside and groups under way: of
        those, the samples that are finished and the parts of others that a sync cut off. `trained`: whether the batch
        last handed out has been trained on; if not (a run that is interrupted), it goes back into the buffer.
        LedgerError if a prompt or a token is unaccounted for.
        """
        return {**await self._scheduler.state_dict(trained), "counters": self._counters()}

    async def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved. Before the first `resume`. UserError if the data has changed."""
        self._scheduler.load_state_dict(state)
        self._earlier = dict(state["counters"])

    async def stats(self) -> RolloutStats:
        """Totals of the run, what the last batch was like, and when engines were busy since the last call."""
        counters = self._counters() | self._scheduler.counters()
        intervals, loads = self._admission.intervals(), self._loads.take()
        measures = self._scheduler.measures() | self._client.speculated.take()
        notes = self._journal.take_notes() if self._journal is not None else []
        requests, more = self._client.requests.take()
        return RolloutStats(counters, intervals, measures, loads, notes, requests, more, self._client.busy.take())

    async def close(self) -> None:
        """Drop what is in flight and end the background work."""
        self._watchdog.stop()
        self._admission.shut()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._scheduler.close()
        if self._journal is not None:
            self._journal.close()
        if self._agents is not None:
            await self._agents.close()
        await self._client.close()
        self._environments.close()

    async def _ask_for_parts(self) -> None:
        """Long answers come in parts where all engines that there are now can send what is new alone."""
        asked = all_send_parts(self._client)
        try:
            can = await asyncio.wait_for(asked, _ASKED_S)
        except TimeoutError:  # one that is silent is lost or mended by who looks after the engines
            can = False
        self._client.in_parts = can and not self._spec.rollout.disaggregated

    def _names(self, version: int) -> None:
        """Requests are for the weights of `version` from now on."""
        self._client.adapter = adapter_name(version) if self._spec.adapters else None
        if self._client.kept_cache is not None:
            self._client.kept_cache.version = version

    async def _play(self, prompt: Prompt, place: int, attempt: Attempt) -> Sample:
        """The sample at a place of the prompt's group. Every attempt has a seed of its own."""
        number = place + attempt.number * self._spec.rollout.samples_per_group
        seed = partial(request_seed, self._spec.seed, prompt.index, number)
        return await self._episodes.play(prompt, Place(place, seed, attempt), self._admission.at(prompt.index, place))

    def _player(
        self,
        encoder: PromptEncoder,
        sampling: SamplingParams,
        requests: FailureRate,
        judging: Judging,
        experts: ExpertSizes | None = None,
    ) -> Player:
        """What makes samples: the configured agent, or turns of the environment."""
        if self._agents is None:
            rules = EpisodeRules.of(self._spec.rollout)
            return Episodes(self._engines, encoder, sampling, requests, judging, experts, rules, self._parser)
        longest = self._spec.rollout.max_prompt_tokens + sampling.max_new_tokens
        return self._agents.episodes(self._engines, encoder, sampling, longest, requests, judging, experts)

    def _counters(self) -> dict[str, int]:
        now = {
            "groups_recovered": self._scheduler.recovered.used,
            "tokens_recovered": self._scheduler.recovered.tokens,
            "samples_generated": self._episodes.samples,
            "tokens_generated": self._episodes.tokens,
            "failed_requests": self._request_failures.total,
            "failed_rewards": self._reward_failures.total + self._group_failures.total,
            "retried_requests": self._client.retried,
            "interrupted_requests": self._client.interrupted,
            "preempted_requests": self._client.preemptions.requests,
        }
        fates = self._scheduler.ledger.prompts.fates
        # The scheduler and its parts save their own counts.
        return {name: value + self._earlier.get(name, 0) for name, value in now.items()} | {
            "groups_given_up": sum(number for fate, number in fates.items() if fate.startswith("failed_")),
            "groups_too_stale": self._buffer.dropped,
            "groups_dropped_equal": self._refill.dropped,
            "prompts_too_long": self._queue.dropped,
            "prompts_bad": self._queue.bad,
        }
