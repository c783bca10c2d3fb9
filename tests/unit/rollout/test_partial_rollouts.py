"""Responses that go on through syncs and restarts: the service on simulated engines, in virtual time."""

from __future__ import annotations

import asyncio
import pickle
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from rlscale.config.schema.component import TARGET
from rlscale.config.schema.rollout_config import OnSync
from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig, SimulatedEngineConfig
from rlscale.data.sample import Group, Sample
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.seeds import request_seed
from rlscale.rollout.service import RolloutService
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet
from rlscale.serve.simulator.token_stream import logprobs_of
from rlscale.serve.simulator.virtual_time import VirtualLoop

ENGINE = SimulatedEngineConfig(
    decode_s=1.0,
    half_batch=1e9,
    prefill_tokens_per_s=1e9,
    slots=64,
    lengths=LengthsConfig(law=LengthLaw.log_normal, median=20.0, sigma=1.0, cap=20.0),
)
ENVIRONMENT = "rlscale.run.simulation.simulated_workload.SimulatedEnvironment"


def payload(version: int) -> str:
    return f"weights {version}"


@dataclass
class Run:
    """A service and its engines, which are given weights as a trainer would."""

    spec: RolloutSpec
    fleet: SimulatedFleet

    async def begin(self) -> None:
        """A service that knows of nothing yet."""
        self.service = RolloutService(self.spec, self.fleet.connect)
        await self.service.start(ROUTER_URL)

    async def restart(self) -> None:
        """Save, end the service, and go on in another; the engines stay."""
        state = pickle.dumps(await self.service.state_dict())
        await self.service.close()
        await self.begin()
        await self.service.load_state_dict(pickle.loads(state))

    async def sync(self, version: int) -> None:
        """New weights: pause, send them, go on."""
        await self.service.pause()
        await self.give(version)
        await self.service.resume(version)

    async def give(self, version: int) -> None:
        body = {"serialized_named_tensors": [payload(version)], "weight_version": str(version), "flush_cache": True}
        for url in self.fleet.urls:
            await self.fleet.post(url + "/update_weights_from_tensor", body)


@pytest.fixture
def simulated(spec: RolloutSpec) -> Callable[..., Any]:
    """`simulated(scenario, key=value)`: what it gives, with those rollout keys."""

    def call(scenario: Callable[[Run], Awaitable[Any]], reward_s: float = 0.0, **rollout: Any) -> Any:
        options = {"max_staleness": 6, "over_sampling": 2.0, "on_sync": OnSync.abort_and_resume, **rollout}
        options |= {"max_response_tokens": 400, "max_concurrent": 64, "request_timeout_s": 10_000.0}
        env = {TARGET: ENVIRONMENT, "solved": 0.5, "seconds": reward_s}
        changed = replace(spec, rollout=replace(spec.rollout, **options), env=env)

        async def main() -> Any:
            run = Run(changed, SimulatedFleet(ENGINE, 2))
            await run.begin()
            try:
                return await scenario(run)
            finally:
                await run.service.close()

        loop = VirtualLoop()  # not asyncio.Runner, which closes what the watchdog's thread may still look at
        try:
            return loop.run_until_complete(main())
        finally:
            loop.close()

    return call


def of_its_versions(sample: Sample, seed: int) -> bool:
    """Whether every log-prob is the one that the weights of the token's version give it."""
    expected = np.zeros(len(sample.tokens))
    for version in set(sample.versions[sample.loss_mask].tolist()):
        weights = zlib.crc32(str([payload(version)]).encode())
        here = sample.versions == version
        expected[here] = logprobs_of(seed, weights, 0, len(sample.tokens))[here]
    return bool(np.allclose(sample.rollout_logprobs, expected, atol=1e-6))


def test_every_token_is_what_the_weights_of_its_version_say(simulated: Callable[..., Any], spec: RolloutSpec) -> None:
    """Partial rollouts through twelve syncs, in the middle of responses of up to 400 tokens."""

    async def scenario(run: Run) -> list[Group]:
        groups: list[Group] = []
        for version in range(12):
            await run.sync(version)
            groups += await run.service.next_batch()
            counters = (await run.service.stats()).counters  # the accounts balance
        assert "tokens/discarded_cut_off" not in counters, "not one token is lost to twelve syncs"
        return groups

    groups = simulated(scenario)
    samples = [sample for group in groups for sample in group.samples]
    assert len({group.prompt.index for group in groups}) == len(groups) == 12 * 4
    assert all(
        of_its_versions(sample, request_seed(spec.seed, group.prompt.index, sample.index))
        for group in groups
        for sample in group.samples
    )
    spans = [sample.versions[sample.loss_mask] for sample in samples]
    assert all((np.diff(versions) >= 0).all() for versions in spans)
    assert max(len(set(versions.tolist())) for versions in spans) >= 3


def test_rewards_go_on_across_a_cut(simulated: Callable[..., Any]) -> None:
    async def scenario(run: Run) -> tuple[int, int, int]:
        await run.sync(0)
        while (await run.service.stats()).counters["tokens/under_way"] == 0:
            await asyncio.sleep(1)  # the first response is complete, and its reward is being computed
        await run.service.pause()
        before = (await run.service.stats()).counters["samples_generated"]
        sent = sum(engine.requests for engine in run.fleet.engines.values())
        await asyncio.sleep(200)
        after = (await run.service.stats()).counters["samples_generated"]
        return before, after, sum(engine.requests for engine in run.fleet.engines.values()) - sent

    before, after, sent = simulated(scenario, reward_s=50.0)
    assert (before, sent) == (0, 0)
    assert after > 0


@pytest.mark.parametrize("seconds", [3, 17, 60])
def test_a_restart_goes_on_with_what_a_sync_had_cut_off(simulated: Callable[..., Any], seconds: int) -> None:
    """The same weights before and after: then the samples are those of a run that was not interrupted, bit for bit."""

    async def scenario(run: Run, interrupted: bool) -> tuple[list[Group], list[int]]:
        kept = []
        await run.sync(0)
        await asyncio.sleep(seconds)
        await run.service.pause()
        for _ in range(2):
            kept.append((await run.service.stats()).counters["tokens/under_way"])
            if interrupted:
                await run.restart()
        await run.sync(0)
        return await run.service.next_batch(), kept

    again, (before, after) = simulated(lambda run: scenario(run, True))
    assert after == before > 0
    assert contents(again) == contents(simulated(lambda run: scenario(run, False))[0])


def contents(groups: list[Group]) -> list[tuple[list[int], list[float], list[int]]]:
    return [
        (sample.tokens.tolist(), sample.rollout_logprobs.tolist(), sample.versions.tolist())
        for group in groups
        for sample in group.samples
    ]
