"""Requests under way when the weights change, on the fake engine: waited for, cut off and resumed, or left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine

from rlscale.config.schema.rollout_config import OnSync
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.on_sync_modes import AbortAndResume, on_sync_mode
from rlscale.rollout.engines.sampling_params import SamplingParams

PROMPT = np.array([5, 9, 4], np.int32)


def sync_during(kind: OnSync, delay: float) -> tuple[list[Generation], float, dict[str, Any]]:
    """Four requests that take `delay` seconds in one version, and a sync once all have reached the engine."""
    seen: dict[str, Any] = {}

    async def main() -> tuple[list[Generation], float]:
        async with FakeEngine() as engine:
            engine.delay = lambda body: delay if engine.synced == "0" else 0.0
            client, admission = EngineClient(engine.url, "secret"), Admission(4)
            engines = Continued(client, Cuts())
            mode = on_sync_mode(kind, admission, client, engines.cuts)
            calls = (
                engines.generate(PROMPT, SamplingParams(60), seed, admission, Attempt(lambda: int(engine.synced)))
                for seed in range(4)
            )
            requests = [asyncio.create_task(call) for call in calls]
            while engine.running < 4:
                await asyncio.sleep(0.01)
            begun = time.monotonic()
            await mode.pause()
            paused = time.monotonic() - begun
            seen["running"] = engine.running
            engine.synced = "1"
            mode.resume()
            found = list(await asyncio.gather(*requests))
            seen["sent"] = len(engine.requests)
            await client.close()
            return found, paused

    found, paused = asyncio.run(asyncio.wait_for(main(), 20))
    return found, paused, seen


def test_wait_ends_when_the_last_request_is_answered() -> None:
    found, paused, seen = sync_during(OnSync.wait, delay=0.3)
    assert paused > 0.1
    assert seen == {"running": 0, "sent": 4}
    assert {version for one in found for version in one.versions.tolist()} == {0}


def test_abort_and_resume_cuts_requests_off_and_goes_on_with_the_new_weights() -> None:
    found, paused, seen = sync_during(OnSync.abort_and_resume, delay=30.0)
    assert paused < 15.0, "half of what the requests take"
    assert seen == {"running": 0, "sent": 8}
    assert {one.finish_reason for one in found} <= {"stop", "length"}
    for one in found:
        assert np.all(np.diff(one.versions) >= 0)
        assert one.versions[-1] == 1
    assert {one.versions[0] for one in found} == {0}


def test_requests_that_the_engine_keeps_are_not_touched() -> None:
    for kind in (OnSync.retract, OnSync.in_place):
        _, _, seen = sync_during(kind, delay=1.0)
        assert seen == {"running": 4, "sent": 4}


def test_engines_of_the_last_sync_are_told_before_the_router_has_said_which_there_are() -> None:
    told: list[str] = []

    class Client:
        """Two engines at the first sync; later one of them and another. Asking takes a while."""

        found: tuple[str, ...] = ()

        def set_aside(self, urls: object) -> None:
            """Nobody is."""

        async def engines(self) -> list[str]:
            await asyncio.sleep(0.001)
            told.append("found")
            return list(self.found)

        async def abort_at(self, url: str) -> None:
            told.append(url)
            if url == self.found[-1]:
                admission.leave()

    async def main() -> list[list[str]]:
        rounds = []
        mode = AbortAndResume(admission, client, 2, Cuts())  # type: ignore[arg-type]  # the three methods that it calls
        for client.found in (("a", "b"), ("b", "c")):
            await admission.enter(())
            await mode.pause()
            mode.resume()
            rounds.append(told.copy())
            told.clear()
        return rounds

    admission, client = Admission(4), Client()
    first, second = asyncio.run(asyncio.wait_for(main(), 20))
    assert first == ["found", "a", "b"]
    assert second == ["a", "b", "found", "c"]


class Fleet:
    """Two engines, of which the first has that much to do; each look at it, or abort, takes one away."""

    def __init__(self, work: int) -> None:
        self.work, self.aside, self.aborted = work, list[tuple[str, ...]](), 0

    def set_aside(self, urls: Collection[str]) -> None:
        self.aside.append(tuple(urls))

    def calls_at(self, url: str) -> int:
        return 0

    async def load_at(self, url: str) -> dict[str, Any]:
        now, self.work = self.work, max(self.work - 1, 0)
        rank = {"num_running_reqs": now, "num_waiting_reqs": 0, "token_usage": 0.0}
        return {"loads": [{**rank, "max_running_requests": 4, "max_total_num_tokens": 100}]}

    async def abort_at(self, url: str) -> None:
        self.aborted += 1


@pytest.mark.parametrize("kind", OnSync)
def test_an_engine_is_drained_in_its_own_way_while_the_other_keeps_its_places(kind: OnSync) -> None:
    fleet, admission, cuts = Fleet(3), Admission(8), Cuts()
    withheld = []

    async def main() -> None:
        mode = on_sync_mode(kind, admission, fleet, cuts, engines=2)  # type: ignore[arg-type]  # what it calls of one
        await asyncio.wait_for(mode.drain(["a"]), 20)
        withheld.append(admission.withheld)
        mode.resume()

    asyncio.run(main())
    assert fleet.aside == [("a",), ()]
    waits = kind.pause is None
    assert fleet.work == (0 if waits else 3), "an engine that keeps its requests is not waited for"
    assert (fleet.aborted, cuts.count) == ((3, 1) if kind is OnSync.abort_and_resume else (0, 0))
    assert (withheld, admission.withheld) == ([4 if waits else 0], 0)


@pytest.mark.parametrize("kind", OnSync)
def test_a_drain_of_no_engine_takes_all_back(kind: OnSync) -> None:
    fleet, admission = Fleet(3), Admission(8)

    async def main() -> None:
        mode = on_sync_mode(kind, admission, fleet, Cuts(), engines=2)  # type: ignore[arg-type]  # what it calls of one
        await asyncio.wait_for(mode.drain(["a"]), 20)
        await asyncio.wait_for(mode.drain(()), 20)

    asyncio.run(main())
    assert (fleet.aside, admission.withheld) == ([("a",), ()], 0)


def test_a_drain_that_nobody_waits_for_any_more_ends_with_the_next_call() -> None:
    async def main() -> None:
        mode = on_sync_mode(OnSync.wait, Admission(8), Fleet(10**9), Cuts(), engines=2)  # type: ignore[arg-type]  # as above
        draining = asyncio.create_task(mode.drain(["a"]))
        await asyncio.sleep(0.05)
        mode.resume()
        await asyncio.wait_for(draining, 5)

    asyncio.run(main())
