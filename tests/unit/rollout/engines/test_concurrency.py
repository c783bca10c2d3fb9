"""Windows by hand-computed sequences, and the limit of admission on simulated engines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.concurrency import AdaptiveConcurrency, Window
from rlscale.rollout.engines.engine_loads import EngineLoads, LoadReport
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet
from rlscale.serve.simulator.virtual_time import VirtualLoop


def report(running: int, usage: float, waiting: int = 0, most: int = 1000) -> LoadReport:
    return LoadReport(running, waiting, usage, most, cache_tokens=10_000)


def window_of(size: int, most: int = 1000) -> Window:
    """One that has reported once, and begins with `size`: the longest sequence takes 0.8 x 10,000 / size tokens."""
    window = Window(most, longest=8000 // size)
    window.observe(report(0, 0.0), 0)
    assert window.size == size
    return window


def test_a_window_begins_with_what_fits_if_every_sequence_is_the_longest() -> None:
    window = Window(most=500, longest=100)
    assert window.size == 16  # nothing is known yet
    window.observe(report(0, 0.0), 0)
    assert window.size == 80
    window = Window(most=500, longest=100)
    window.observe(report(0, 0.0, most=32), 0)
    assert window.size == 32
    window = Window(most=20, longest=100)
    window.observe(report(0, 0.0), 0)
    assert window.size == 20


def test_it_grows_by_a_fifth_per_turnover() -> None:
    window = window_of(100)
    sizes = []
    for answered in (100, 60, 60, 500):
        window.observe(report(window.size, 0.1), answered)
        sizes.append(window.size)
    # x 1.2; x 1.2 ** 0.5 twice; not more than 1.2 however many were answered
    assert sizes == [120, 131, 142, 171]


def test_it_does_not_grow_before_one_turnover_has_passed() -> None:
    window = window_of(100)
    window.observe(report(100, 0.1), 50)
    assert window.size == 100
    window.observe(report(100, 0.1), 50)
    assert window.size == 109  # 1.2 ** 0.5


def test_it_grows_up_to_eighty_percent_of_the_cache() -> None:
    window = window_of(100)
    window.observe(report(100, 0.75), 100)
    assert window.size == 106  # 0.8 / 0.75, less than 1.2
    window.observe(report(106, 0.8), 106)
    assert window.size == 106


@pytest.mark.parametrize(("running", "waiting"), [(90, 0), (95, 5)])
def test_it_does_not_grow_where_more_requests_would_be_of_no_use(running: int, waiting: int) -> None:
    window = window_of(100)
    window.observe(report(running, 0.1, waiting), 100)
    assert window.size == 100


@pytest.mark.parametrize(
    ("full", "preempted"),
    [(report(100, 0.95), False), (report(100, 0.5), True), (report(98, 0.97, waiting=2), False)],
)
def test_it_backs_off_from_a_full_cache_or_a_preemption_once_for_all_that_are_too_many(
    full: LoadReport, preempted: bool
) -> None:
    window = window_of(100)
    assert window.observe(full, 10, preempted)
    assert window.size == 80
    assert not window.observe(full, 10, preempted)  # the twenty that are too many are still there: nobody cancels them
    assert window.size == 80
    window.observe(report(80, 0.96), 20)
    assert window.size == 64


def test_it_never_goes_below_one() -> None:
    window = window_of(1)
    window.observe(report(1, 1.0), 0)
    assert window.size == 1


def test_after_a_sync_half_is_let_in_and_the_rest_report_by_report() -> None:
    window = window_of(100)
    window.synced()
    sizes = [window.size]
    for _ in range(2):
        window.observe(report(window.size, 0.1), 40)
        sizes.append(window.size)
    assert sizes == [50, 100, 100]  # 80 answered are no turnover yet
    window.observe(report(100, 0.1), 20)
    assert window.size == 103  # 1.2 ** 0.2


Scenario = Callable[[SimulatedFleet, AdaptiveConcurrency, Admission, EngineClient], Awaitable[Any]]


def simulated(scenario: Scenario, cache_tokens: int, most: int = 64) -> Any:
    lengths = LengthsConfig(law=LengthLaw.uniform, median=92.0, prompt_share=0.0)
    config = SimulatedEngineConfig(
        decode_s=0.1, slots=64, cache_tokens=cache_tokens, lengths=lengths, prefill_tokens_per_s=1e9, half_batch=1e9
    )

    async def main() -> Any:
        fleet = SimulatedFleet(config, 2)
        client = EngineClient(ROUTER_URL, None, 1000.0, 0, 1000, fleet.connect)
        admission = Admission(1)
        return await scenario(
            fleet,
            AdaptiveConcurrency(admission, EngineLoads(client), client.preemptions, 2, most, 400),
            admission,
            client,
        )

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


async def _keep_busy(admission: Admission, client: EngineClient, requests: int) -> None:
    async def one(seed: int) -> None:
        async with admission:
            await client.generate(np.arange(4, 12, dtype=np.int32), SamplingParams(400), seed)

    await asyncio.gather(*map(one, range(requests)))


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_limit_grows_until_the_caches_are_used_and_hardly_a_request_is_preempted(adaptive: bool) -> None:
    async def scenario(
        fleet: SimulatedFleet, concurrency: AdaptiveConcurrency, admission: Admission, client: EngineClient
    ) -> tuple[list[int], int]:
        limits = [admission.limit]
        if adaptive:
            follow = asyncio.create_task(concurrency.run())
        else:
            admission.limit = 128
        work = asyncio.create_task(_keep_busy(admission, client, 900))
        while not work.done():
            await asyncio.sleep(5)
            limits.append(admission.limit)
        if adaptive:
            follow.cancel()
        return limits, sum(engine.preemptions for engine in fleet.engines.values())

    limits, preemptions = simulated(scenario, cache_tokens=2000)
    if not adaptive:
        assert preemptions > 500
        return
    assert limits[:2] == [32, 8]  # 16 each before they have reported; then 0.8 x 2,000 / 400 each
    assert all(later <= before * 1.2 + 2 for before, later in itertools.pairwise(limits[1:]))
    # Lengths are uniform from 1 to 184: a request that runs holds 8 + 61 tokens on average, and 2 x 0.8 x 2,000 / 69 =
    # 46 of them fill four fifths of both caches.
    assert 36 <= max(limits[1:]) <= 58
    assert preemptions < 50


def test_a_preemption_that_an_answer_tells_of_shrinks_the_window_of_the_fullest_engine_once() -> None:
    async def scenario(
        fleet: SimulatedFleet, concurrency: AdaptiveConcurrency, admission: Admission, client: EngineClient
    ) -> list[int]:
        limits = []

        async def look() -> None:
            await concurrency.look()
            limits.append(admission.limit)

        def preempted(began: float) -> None:
            client.preemptions.answered(began, {"num_retractions": 1}, np.zeros(1, np.int32))

        await look()
        client.redirect(fleet.urls[1])
        work = asyncio.create_task(_keep_busy(Admission(10), client, 10))
        await asyncio.sleep(0.05)
        client.redirect(ROUTER_URL)
        preempted(0.0)
        await look()
        preempted(0.0)  # this one was let in before the window shrank
        await look()
        work.cancel()
        return limits

    assert simulated(scenario, cache_tokens=10_000) == [40, 28, 28]  # 20 each; then four fifths of ten


def test_the_answers_of_engines_with_a_small_cache_tell_of_preemptions() -> None:
    async def scenario(
        fleet: SimulatedFleet, concurrency: AdaptiveConcurrency, admission: Admission, client: EngineClient
    ) -> tuple[int, int]:
        await _keep_busy(Admission(128), client, 128)
        return client.preemptions.requests, sum(engine.preemptions for engine in fleet.engines.values())

    requests, preemptions = simulated(scenario, cache_tokens=2000)
    assert 0 < requests <= preemptions


def test_an_engine_that_is_away_keeps_its_window_and_one_that_was_taken_out_loses_it() -> None:
    async def scenario(
        fleet: SimulatedFleet, concurrency: AdaptiveConcurrency, admission: Admission, client: EngineClient
    ) -> list[int]:
        limits = []
        await concurrency.look()
        limits.append(admission.limit)
        next(iter(fleet.engines.values())).die()
        await concurrency.look()
        limits.append(admission.limit)
        fleet.route(fleet.urls[1:])
        await concurrency.look()
        return [*limits, admission.limit]

    assert simulated(scenario, cache_tokens=10_000) == [40, 40, 20]
