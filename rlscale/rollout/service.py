"""The rollout: a long-lived background service that keeps engines full, scores samples and hands out batches."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from functools import partial
from typing import Any

from rlscale.config.eval_sets import eval_sets
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.rollout_config import RolloutConfig
from rlscale.data.buffer import GroupBuffer
from rlscale.data.chat import PromptEncoder
from rlscale.data.configured_encoder import build_encoder
from rlscale.data.configured_source import build_source
from rlscale.data.end_of_turn import EndOfTurn
from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.target import build_target, instantiate
from rlscale.envs.configured_environment import Environments
from rlscale.envs.overlong import OverlongShaping
from rlscale.envs.rewards_by_source import common_reward, own_rewards
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.connection import Connect, HttpConnection
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.on_sync_modes import on_sync_mode
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.episode import Episodes, Judging, Place, SampleFailed
from rlscale.rollout.evaluation import EvalPrompts, EvalResult, eval_encoder, eval_prompts, evaluate
from rlscale.rollout.failures import FailureRate
from rlscale.rollout.pending_group import PendingGroup
from rlscale.rollout.refill import Refill
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.rollout_stats import RolloutStats
from rlscale.rollout.seeds import request_seed
from rlscale.rollout.watchdog import LoopWatchdog

ATTEMPTS = 4
"""Samples tried for one place in a group before the group is given up for another prompt."""
_PROMPTS_AT_ONCE = 32
"""Prompts encoded in one go."""


class RolloutService:
    """Generates groups ahead of the trainer, as far as the staleness bound allows.

    Life: `start`, perhaps `load_state_dict`, `resume(version)`, then for every iteration `next_batch`, and around a
    weight sync `pause` and `resume(new version)`. All methods run on one event loop, which nothing here blocks.

    How far ahead: while the trainer waits for a batch, the groups in flight and in the buffer may fill
    `max_staleness + 1` batches; once it has taken one, `max_staleness`. With 0 that is exactly one batch per weight
    version, and what it holds depends on the seed alone, not on the order in which requests come back. Groups that
    `algo.refill` rejects leave room for others, up to a number per batch (see `Refill`).
    """

    def __init__(self, spec: RolloutSpec, connect: Connect = HttpConnection) -> None:
        """UserError if data, tokenizer or reward are unusable. `connect`: how requests reach the engines."""
        rollout = spec.rollout
        self._spec = spec
        self._connect = connect
        self._per_batch = rollout.groups_per_iteration
        self._encoder = build_encoder(
            spec.tokenizer_folder, spec.data, rollout.max_prompt_tokens, spec.chat_template, "data"
        )
        self._environments = Environments(
            spec.env,
            common_reward(spec.data, spec.reward, spec.eval),
            rollout.step_timeout_s,
            own_rewards(spec.data, spec.eval),
        )
        self._source = build_source(spec.data)
        self._queue = PromptQueue(
            self._source, self._encoder, "data", spec.data.max_bad_rate, self._environments.check_label
        )
        window = rollout.groups_per_iteration * rollout.samples_per_group
        self._request_failures = FailureRate("requests", "rollout.max_failure_rate", rollout.max_failure_rate, window)
        self._reward_failures = FailureRate("rewards", "reward.max_failure_rate", spec.reward.max_failure_rate, window)
        self._limit = rollout.max_concurrent * (len(rollout.engine_urls) or rollout.engines)
        self._admission = Admission(self._limit, is_open=False)
        self._buffer: GroupBuffer = instantiate(spec.buffer, "buffer")
        self._refill = Refill.of(spec.refill, self._per_batch, build_target(rollout.filter, "rollout.filter", 1))
        self._pending: dict[int, PendingGroup] = {}
        self._again: deque[Prompt] = deque()  # prompts to generate before the source is asked for more
        self._given_up = 0
        self._version = -1
        self._taken = False  # whether the batch of this version has been handed out
        self._error: BaseException | None = None
        self._room = asyncio.Event()  # there may be room for more groups
        self._news = asyncio.Event()  # a group was finished, or something failed
        self._fetching = asyncio.Lock()  # held while prompts are between the source and their groups
        self._last_batch: list[Group] = []
        self._earlier: dict[str, int] = {}  # counters of the run before it was resumed
        self._evaluated: dict[str, tuple[PromptEncoder, EvalPrompts]] = {}  # by the name of the evaluation set

    async def start(self, url: str, api_key: str | None = None) -> None:
        """Connect to the router, or to a single engine. Generation begins with the first `resume`."""
        rollout = self._spec.rollout
        self._client = EngineClient(
            url, api_key, rollout.request_timeout_s, rollout.request_retries, 2 * self._limit, self._connect
        )
        self._engines = Continued(self._client, Cuts())
        self._on_sync = on_sync_mode(rollout.on_sync, self._admission, self._client, self._engines.cuts)
        sampling = self._sampling(rollout, rollout.max_response_tokens, self._encoder.end_of_turn)
        shaping = OverlongShaping.of(self._spec.overlong, rollout.max_response_tokens)
        judging = Judging(self._environments.make, self._reward_failures, shaping, self._environments.limit_s)
        self._episodes = Episodes(
            self._engines, self._encoder, sampling, self._request_failures, judging, self._spec.experts
        )
        self._watchdog = LoopWatchdog()
        self._watchdog.start()
        self._scheduler = asyncio.create_task(self._schedule(), name="rollout scheduler")

    async def redirect(self, url: str) -> None:
        """Send requests to `url` from now on, also those that are being sent again."""
        self._client.redirect(url)

    async def next_batch(self) -> list[Group]:
        """The next `groups_per_iteration` groups, ordered by prompt index; waits until they are there.

        No token in them is staler than `max_staleness` for the trainer of the current version. They count as trained
        from now on (see `state_dict`). UserError if too many requests or rewards failed, or the data is unusable;
        RuntimeError when the batch of this version was taken already.
        """
        if self._taken:
            raise RuntimeError(f"the batch of weight version {self._version} was taken already; call resume first")
        bound = self._spec.rollout.max_staleness
        while True:
            if self._error is not None:
                raise self._error
            self._news.clear()
            late = self._buffer.expire(self._version, bound)
            self._again.extend(group.prompt for group in late)
            in_flight = [pending.oldest_version(self._version) for pending in self._pending.values()]
            groups = self._buffer.take(self._per_batch, self._version, bound, in_flight)
            self._taken = bool(groups)
            if groups or late:
                self._room.set()
            if groups:
                self._refill.settle()
                self._last_batch = groups
                return groups
            await self._news.wait()

    async def pause(self) -> None:
        """Make the engines ready for new weights (see `rollout.on_sync`). Rewards go on."""
        await self._on_sync.pause()

    async def resume(self, version: int) -> None:
        """Go on generating; the engines hold the weights of `version`, which may be those of the last batch (a run that
        only generates)."""
        self._taken = False
        self._version = version
        if self._error is None:
            self._on_sync.resume()
        self._room.set()
        self._news.set()

    async def evaluate(self, version: int, name: str = "") -> EvalResult:
        """Evaluate the weights that the engines hold, also while generation is paused. UserError if too much fails.

        `name`: which evaluation set; "" is `eval.data`.
        """
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
        sampling = self._sampling(spec.eval, length, encoder.end_of_turn)
        judging = Judging(self._environments.make, rewards, limit_s=self._environments.limit_s)
        episodes = Episodes(self._engines, encoder, sampling, requests, judging)
        return await evaluate(spec, prompts, episodes, Admission(self._limit), version)

    async def state_dict(self, trained: bool = True) -> dict[str, Any]:
        """What a run needs to go on; picklable.

        The buffer is in it with its samples, and so is what refill has set aside; prompts in flight are, and are
        generated again. `trained`: whether the batch last handed out has been trained on; if not (a run that is
        interrupted), it goes back into the buffer.
        """
        async with self._fetching:
            in_flight = [self._pending[index].prompt for index in sorted(self._pending)]
            buffer = self._buffer.state_dict()
            if not trained and self._taken:
                buffer["groups"] = self._last_batch + buffer["groups"]
            return {
                "version": self._version,
                "queue": self._queue.state_dict(),
                "prompts": in_flight + list(self._again),
                "buffer": buffer,
                "refill": self._refill.state_dict(),
                "counters": self._counters(),
            }

    async def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved. Before the first `resume`. UserError if the data has changed."""
        if self._pending or self._version >= 0:
            raise RuntimeError("load_state_dict must be called before the first resume")
        self._queue.load_state_dict(state["queue"])
        self._again = deque(sorted(state["prompts"], key=lambda prompt: prompt.index))
        self._buffer.load_state_dict(state["buffer"])
        self._refill.load_state_dict(state["refill"])
        self._earlier = dict(state["counters"])

    async def stats(self) -> RolloutStats:
        """Totals of the run, and when engines were busy since the last call."""
        return RolloutStats(self._counters(), self._admission.intervals())

    async def close(self) -> None:
        """Drop what is in flight and end the background work."""
        self._watchdog.stop()
        self._admission.shut()
        tasks = [self._scheduler, *(pending.task for pending in self._pending.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
        self._environments.close()

    async def _schedule(self) -> None:
        """Start groups whenever there is room for them."""
        try:
            while True:
                await self._room.wait()
                self._room.clear()
                while (missing := self._missing()) > 0:
                    async with self._fetching:
                        for prompt in await self._prompts(min(missing, _PROMPTS_AT_ONCE)):
                            self._launch(prompt)
        except Exception as error:
            self._stop(error)

    def _missing(self) -> int:
        """Groups that may be started now."""
        if self._version < 0 or self._error is not None:
            return 0
        ahead = (self._spec.rollout.max_staleness + 1 - int(self._taken)) * self._per_batch
        return ahead - len(self._pending) - len(self._buffer)

    async def _prompts(self, n: int) -> list[Prompt]:
        if self._again:
            return [self._again.popleft() for _ in range(min(n, len(self._again)))]
        return await asyncio.to_thread(self._queue.take, n)

    def _launch(self, prompt: Prompt) -> None:
        pending = PendingGroup(prompt)
        self._pending[prompt.index] = pending
        pending.task = asyncio.create_task(self._generate(pending), name=f"group {prompt.index}")

    async def _generate(self, pending: PendingGroup) -> None:
        """Generate one group and put it into the buffer or aside; give it up if one of its places stays empty."""
        places = range(self._spec.rollout.samples_per_group)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._fill(pending, place)) for place in places]
            group = Group(pending.prompt, [task.result() for task in running])
            kept = self._refill.admit(group)
            self._queue.observe(group.prompt, group.rewards.tolist(), "kept" if kept is group else "filtered")
            if kept is not None:
                self._buffer.put(kept)
        except BaseExceptionGroup as errors:
            serious = errors.split(SampleFailed)[1]
            if serious is not None:
                self._again.append(pending.prompt)  # nothing is wrong with it
                self._stop(serious.exceptions[0])
            else:
                self._given_up += 1
                self._queue.observe(pending.prompt, (), "failed")
        except Exception as error:  # somebody's own filter failed, or nothing passes it
            self._again.append(pending.prompt)
            self._stop(error)
        finally:
            del self._pending[pending.prompt.index]
            self._room.set()
            self._news.set()

    async def _fill(self, pending: PendingGroup, place: int) -> Sample:
        """A sample for one place of the group; another seed replaces one that failed, up to `ATTEMPTS` times."""
        prompt = pending.prompt
        for attempt in range(ATTEMPTS):
            number = place + attempt * self._spec.rollout.samples_per_group
            seed = partial(request_seed, self._spec.seed, prompt.index, number)
            chosen = Place(place, seed, lambda: pending.enter(self._version))
            try:
                return await self._episodes.play(prompt, chosen, self._admission)
            except SampleFailed as error:
                last = error
        raise last

    @staticmethod
    def _sampling(config: RolloutConfig | EvalConfig, length: int, end: EndOfTurn) -> SamplingParams:
        return SamplingParams.of(config, length, end.token)

    def _stop(self, error: BaseException) -> None:
        """Generate no more; `next_batch` raises the error."""
        self._error = self._error or error
        self._admission.shut()
        self._news.set()

    def _counters(self) -> dict[str, int]:
        now = {
            "samples_generated": self._episodes.samples,
            "tokens_generated": self._episodes.tokens,
            "failed_requests": self._request_failures.total,
            "failed_rewards": self._reward_failures.total,
            "retried_requests": self._client.retried,
            "groups_given_up": self._given_up,
            "groups_too_stale": self._buffer.dropped,
            "groups_dropped_equal": self._refill.dropped,
            "prompts_too_long": self._queue.dropped,
            "prompts_bad": self._queue.bad,
        }
        # The buffer, the refill and the queue save their own counts.
        saved_elsewhere = ("groups_too_stale", "groups_dropped_equal", "prompts_too_long", "prompts_bad")
        return {
            name: value + (0 if name in saved_elsewhere else self._earlier.get(name, 0)) for name, value in now.items()
        }
