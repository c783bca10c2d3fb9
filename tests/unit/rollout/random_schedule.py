"""A random course of a rollout on simulated engines: faults, syncs, restarts, and all that must hold.

Everything runs in virtual time on the real service, client, scheduler and buffer.
"""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rlscale.config.schema.algo_config import RefillConfig
from rlscale.config.schema.rollout_config import RolloutConfig, Stale
from rlscale.config.schema.simulator_config import FaultsConfig, LengthsConfig, SimulatedEngineConfig
from rlscale.data.batches.fields import STALE
from rlscale.data.sample import Group
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.service import RolloutService
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet
from rlscale.serve.simulator.virtual_time import VirtualLoop

_UPDATE = "/update_weights_from_tensor"
_TURNS = 8
"""Turns of the event loop from the engine's answer to the account, at the most."""


@dataclass(frozen=True)
class Step:
    """What is done after another: engines run for `before_s`, a batch is trained for `train_s`, the weights change."""

    before_s: float = 0.0
    train_s: float = 0.0
    restart: bool = False
    """The process ends once the engines have run for `before_s`, and another goes on from its state."""
    interrupted: bool = False
    """It ends after a batch was taken that is not trained on; `restart` asks for no batch."""
    saved: bool = False
    """A checkpoint is written after the batch was trained on."""
    killed: bool = False
    """It is killed once the engines have run for `before_s`: another goes on from the last checkpoint, or from none."""


@dataclass(frozen=True)
class Course:
    """A whole run."""

    rollout: RolloutConfig
    faults: FaultsConfig
    engines: int
    seed: int
    steps: tuple[Step, ...]


@dataclass
class Seen:
    """What a run has shown so far."""

    trained: Counter[int]
    restarts: int = 0
    crashes: int = 0
    kills: int = 0
    recovered: int = 0
    fates: Counter[str] | None = None


def run_course(spec: RolloutSpec, course: Course) -> Seen:
    """Play a course. AssertionError, or LedgerError, where something does not hold."""
    with TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        journaled = replace(spec, journal=folder, journal_ahead=course.rollout.max_staleness)
        return runner.run(_Life(journaled, course).run())


class _Life:
    """One run with all of its restarts."""

    def __init__(self, spec: RolloutSpec, course: Course) -> None:
        refill = (
            spec.refill if course.rollout.samples_per_group > 1 else RefillConfig()
        )  # one reward is equal to itself
        self._spec = replace(spec, rollout=course.rollout, seed=course.seed, refill=refill)
        self._course = course
        self._version = 0
        self._received = 0  # tokens that processes before this one were answered
        self._checkpoint: tuple[bytes, int, Counter[int]] | None = None
        self.seen = Seen(Counter())

    async def run(self) -> Seen:
        await self._begin(None)
        for step in self._course.steps:
            await asyncio.sleep(step.before_s)
            if step.restart:
                await self._restart(trained=True)
                continue
            if step.killed:
                await self._kill()
                continue
            groups = await self._service.next_batch()
            self._check_batch(groups)
            if step.interrupted:
                await self._restart(trained=False)
                continue
            self.seen.trained.update(group.prompt.index for group in groups)
            assert max(self.seen.trained.values()) == 1
            await asyncio.sleep(step.train_s)
            await self._check()
            await self._service.pause()
            self._version += 1
            if step.saved:
                state = await self._service.state_dict()
                self._checkpoint = pickle.dumps(state), self._version, Counter(self.seen.trained)
            await self._give(self._fleet.urls)
            await self._service.resume(self._version)
        await self._check()
        state = await self._service.state_dict()
        prompts, held = set(self._held(state)), Counter(state["ledger"]["prompts"]["fates"])
        assert prompts.isdisjoint(self.seen.trained)
        assert held["trained"] == sum(self.seen.trained.values())
        self.seen.fates = held
        await self._end()
        return self.seen

    async def _begin(self, state: dict[str, Any] | None) -> None:
        """A new process, with engines that know nothing."""
        engine = SimulatedEngineConfig(
            decode_s=1.0, slots=3, cache_tokens=200, lengths=LengthsConfig(median=6.0), seed=self._course.seed
        )
        engine = replace(engine, faults=self._course.faults)
        self._fleet = SimulatedFleet(engine, self._course.engines)
        self._service = RolloutService(self._spec, self._fleet.connect)
        await self._service.start(ROUTER_URL)
        if state is not None:
            await self._service.load_state_dict(state)
        await self._give(self._fleet.urls)
        self._mending = asyncio.create_task(self._mend())
        await self._service.resume(self._version)

    async def _end(self) -> None:
        self._mending.cancel()
        self.seen.crashes += sum(engine.restarts for engine in self._fleet.engines.values())
        assert not any(engine.updates_under_load for engine in self._fleet.engines.values())
        await self._service.close()

    async def _restart(self, trained: bool) -> None:
        """Nothing but the state gets over: after it the same prompts, samples and accounts are there."""
        await self._check()
        self._received += self._answered()
        state = await self._service.state_dict(trained)
        saved = pickle.dumps(state)
        await self._end()
        await self._begin(pickle.loads(saved))
        again = await self._service.state_dict()
        assert self._held(again) == self._held(state)
        assert again["ledger"] == state["ledger"]
        assert _tokens(again) == _tokens(state)
        self.seen.restarts += 1

    async def _kill(self) -> None:
        """The checkpoint gets over, and what finished after it: nobody trains on a prompt twice, or on one of two
        courses, and both accounts balance."""
        await self._end()
        self.seen.kills += 1
        if self._checkpoint is None:
            saved, self._version, self.seen.trained, self._received = None, 0, Counter(), 0
        else:
            saved, self._version, trained = self._checkpoint
            self.seen.trained = Counter(trained)
            state = pickle.loads(saved)
            self._received = state["ledger"]["tokens"]["received"] - state["counters"]["tokens_recovered"]
        await self._begin(pickle.loads(saved) if saved is not None else None)

    async def _give(self, urls: list[str]) -> None:
        """Weights for these engines, as a receiver sends them."""
        body = {"serialized_named_tensors": [str(self._version)], "weight_version": str(self._version)}
        pause = self._course.rollout.on_sync.pause

        async def one(url: str) -> None:
            if pause is not None:
                await self._fleet.post(url + "/pause_generation", {"mode": pause})
            await self._fleet.post(url + _UPDATE, body)
            if pause is not None:
                await self._fleet.post(url + "/continue_generation", {})

        await asyncio.gather(*(one(url) for url in urls if not self._fleet.engines[url].down))

    async def _mend(self) -> None:
        """As the supervisor: an engine that is back gets the weights before it gets requests."""
        known = dict.fromkeys(self._fleet.urls, 0)
        while True:
            await asyncio.sleep(0.5)
            for url, engine in self._fleet.engines.items():
                if engine.restarts > known[url]:
                    self._fleet.route([other for other in self._fleet.workers if other != url])
                    if not engine.down:
                        known[url] = engine.restarts
                        await self._give([url])
                        self._fleet.route([*self._fleet.workers, url])

    async def _check(self) -> None:
        """Both accounts balance (LedgerError) and are those of the engines.

        No prompt is held twice, and the buffer holds no more than it may.
        """
        for _ in range(_TURNS):  # answers that are on their way
            await asyncio.sleep(0)
        stats = await self._service.stats()
        recovered = stats.counters["tokens_recovered"]
        self.seen.recovered = max(self.seen.recovered, stats.counters["groups_recovered"])
        received, answered = stats.counters["tokens/received"] - recovered, self._received + self._answered()
        assert received == answered, f"received {received} of {answered} tokens that the engines sent"
        assert "tokens/discarded_cut_off" not in stats.counters
        unanswered = [engine.unanswered for engine in self._fleet.engines.values()]
        assert min(unanswered) >= 0
        assert self._course.faults != FaultsConfig() or max(unanswered) == 0
        state = await self._service.state_dict()
        held = self._held(state)
        assert len(held) == len(set(held))
        rollout = self._course.rollout
        most = rollout.groups_per_iteration * max(rollout.max_staleness + 1, rollout.over_sampling)
        assert len(state["buffer"]["groups"]) <= most

    def _answered(self) -> int:
        """Tokens that the engines of this process have sent."""
        return sum(engine.answered for engine in self._fleet.engines.values())

    def _check_batch(self, groups: list[Group]) -> None:
        """A whole batch of whole groups, in which nothing that is trained on is over the bound."""
        rollout = self._course.rollout
        assert len(groups) == rollout.groups_per_iteration
        for group in groups:
            assert len(group.samples) == rollout.samples_per_group
            for sample in group.samples:
                stale = sample.columns.get(STALE, np.zeros_like(sample.loss_mask))
                read = sample.versions[sample.loss_mask & ~stale]
                assert (self._version - read <= rollout.max_staleness).all()
                if rollout.stale in (Stale.wait, Stale.drop):
                    assert not stale.any()
                assert np.isfinite(sample.rollout_logprobs[sample.loss_mask]).all()

    @staticmethod
    def _held(state: dict[str, Any]) -> list[int]:
        """The prompts that have no fate yet."""
        groups = [*state["buffer"]["groups"], *state["refill"]["groups"]]
        return sorted([group.prompt.index for group in groups] + [one["prompt"].index for one in state["pending"]])


def _tokens(state: dict[str, Any]) -> dict[tuple[int, int], bytes]:
    """The tokens of every finished sample, and of every other so far, by prompt and place."""
    groups = [*state["buffer"]["groups"], *state["refill"]["groups"]]
    finished = {(group.prompt.index, i): one for group in groups for i, one in enumerate(group.samples)}
    for pending in state["pending"]:
        finished |= {(pending["prompt"].index, place): one for place, one in pending["samples"].items()}
    found = {place: sample.tokens.tobytes() + sample.versions.tobytes() for place, sample in finished.items()}
    for pending in state["pending"]:
        for place, (number, parts) in pending["attempts"].items():
            tokens = [part.tokens.tobytes() + part.versions.tobytes() + part.logprobs.tobytes() for part in parts]
            found[pending["prompt"].index, place] = b"".join([bytes([number]), *tokens])
    return found
