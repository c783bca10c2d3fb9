"""Two real engines behind the real router take new weights one after the other, and generate all the while."""

from __future__ import annotations

import asyncio
import base64
import pickle
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_server import tiny_model
from transformers import PreTrainedModel

from rlscale.config.derived.needed_weights import NeededWeights
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.rollout_config import OnSync
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.on_sync_modes import on_sync_mode
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.run.sides.sync_waves import SyncWaves
from rlscale.serve.http import CallError, call
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.router import RouterClient
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from tests.e2e.rollout.spread_models import difference, spread_models

PROMPTS = [np.array([4, 8, 12, 5, 9, 13, 4 + number], np.int32) for number in range(8)]
LENGTH = 100
LOOKS, LIMIT_S = 4, 20.0
"""An update lasts until the other engine has said so many numbers of tokens, or so long."""


@dataclass
class Fleet:
    """Two engines and the router that asks them; what a sync in waves needs of it."""

    urls: list[str]
    key: str
    router: RouterClient
    models: list[PreTrainedModel]

    def withdraw(self, urls: Sequence[str]) -> None:
        for url in urls:
            self.router.remove(url)

    def admit(self, urls: Sequence[str], meanwhile: Callable[[], None] = lambda: None) -> None:
        for url in urls:
            self.router.add(url, meanwhile=meanwhile)

    def load(self, url: str) -> dict[str, Any]:
        report: dict[str, Any] = call(url, "/v1/loads?include=core", self.key, timeout=10)["loads"][0]
        return report


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, fork_server: str) -> Iterator[Fleet]:
    folder, key = tmp_path_factory.mktemp("waves"), secrets.token_hex(16)
    supervisor = Supervisor(folder / "logs", folder / "scratch", key, fork_server=fork_server)
    try:
        router = RouterClient(supervisor.start_router(), key)
        model = tiny_model(folder / "scratch")
        urls = [supervisor.start_engine(ServerSpec(f"engine-{n}", str(model), Device.cpu)) for n in range(2)]
        for url in urls:
            router.add(url)
        yield Fleet(urls, key, router, spread_models(Path(model), 2))
    finally:
        supervisor.stop()


@dataclass
class Sync:
    """In the place of a WeightSync: two buckets, and a look at both engines between them."""

    fleet: Fleet
    receivers: dict[str, EngineReceiver]
    syncs: int = 0
    within: list[int] = field(default_factory=list)
    """Requests in the engine that is in the middle of its update, several looks at each."""
    others: list[list[int]] = field(default_factory=list)
    """Tokens in the cache of the one that generates on."""

    def watching(self, version: int, urls: Sequence[str] | None = None) -> Callable[[], None]:
        return lambda: None

    def over(self) -> None: ...

    def give(self, version: int, urls: Sequence[str]) -> dict[str, float]:
        (url,) = urls
        (other,) = set(self.fleet.urls) - {url}
        weights = named(self.fleet.models[version % 2])
        self.receivers[url].receive_tensors([_packed(weights[:9])], None, version, False)
        tokens, until = list[int](), time.monotonic() + LIMIT_S
        while len(set(tokens)) < LOOKS and time.monotonic() < until:
            load = self.fleet.load(url)
            self.within.append(load["num_running_reqs"] + load["num_waiting_reqs"])
            tokens.append(self.fleet.load(other)["num_used_tokens"])
        self.others.append(tokens)
        self.receivers[url].receive_tensors([_packed(weights[9:])], None, version, True)
        return {"sync_seconds": 1.0}

    def __call__(self, version: int, urls: Sequence[str] | None = None) -> dict[str, float]:
        raise AssertionError("nobody is new")


def named(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    return [(name, parameter.detach()) for name, parameter in model.named_parameters()]


def _packed(weights: list[tuple[str, torch.Tensor]]) -> str:
    return base64.b64encode(pickle.dumps(weights)).decode()


@dataclass
class Generating:
    """Eight requests at any time and a new one every tenth of a second, through two syncs in waves.

    The new ones are for the engine that generates on: all eight may be waiting in the one that is in its update.
    """

    fleet: Fleet
    kind: OnSync
    version: int = 0
    found: list[tuple[int, Generation]] = field(default_factory=list)
    """By the number of their prompt."""
    retried: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last sync."""

    async def through(self, sync: Any) -> None:
        client, admission = EngineClient(self.fleet.router.url, self.fleet.key), Admission(400)
        engines, loop = Continued(client, Cuts()), asyncio.get_running_loop()
        mode = on_sync_mode(self.kind, admission, client, engines.cuts, engines=2)

        async def ask(number: int, seed: int) -> None:
            attempt = Attempt(lambda: self.version)
            sampling = SamplingParams(LENGTH, ignore_eos=True)
            self.found.append((number, await engines.generate(PROMPTS[number], sampling, seed, admission, attempt)))

        async def keep_busy(number: int) -> None:
            seed = 1000 * number
            while self.version < 2:
                await ask(number, seed)
                seed += 1

        async def arrive() -> None:
            async with asyncio.TaskGroup() as arrived:
                while self.version < 2:
                    arrived.create_task(ask(len(self.found) % 8, 10_000 + len(self.found)))
                    await asyncio.sleep(0.1)

        def drain(urls: Sequence[str], meanwhile: Callable[[], None]) -> None:
            asyncio.run_coroutine_threadsafe(mode.drain(urls), loop).result(60)

        waves = SyncWaves(sync, self.fleet, drain, most=1)
        load = [*(asyncio.create_task(keep_busy(number)) for number in range(8)), asyncio.create_task(arrive())]
        for version in (1, 2):
            await asyncio.sleep(0.3)
            self.metrics = await asyncio.to_thread(waves, version)
            self.version = version
            mode.resume()
        await asyncio.gather(*load)
        self.retried = client.retried
        await client.close()


@pytest.mark.parametrize("kind", [OnSync.wait, OnSync.abort_and_resume, OnSync.retract])
def test_no_request_is_asked_of_an_engine_in_its_update_and_the_other_generates_meanwhile(
    fleet: Fleet, kind: OnSync
) -> None:
    """Log-probs are those of each token's own version, of whichever engine."""
    receivers = {url: EngineReceiver(url, fleet.key, keep=kind.pause or "retract") for url in fleet.urls}
    for receiver in receivers.values():
        receiver.receive_tensors([_packed(named(fleet.models[0]))], None, 0, True)
    sync: Any = Sync(fleet, receivers)
    generating = Generating(fleet, kind)
    asyncio.run(asyncio.wait_for(generating.through(sync), 120))
    found, metrics = generating.found, generating.metrics
    print(kind.value, len(found), "responses", metrics, [(tokens[0], tokens[-1]) for tokens in sync.others])
    assert (metrics["sync_waves"], metrics["sync_seconds"], generating.retried) == (2, 2, 0)
    if kind.pause is None:
        assert set(sync.within) == {0}
    assert all(len(set(tokens)) == LOOKS for tokens in sync.others), "the other engine's tokens grow"
    assert {receiver.weight_version() for receiver in receivers.values()} == {"2"}
    assert {len(one.tokens) for _, one in found} == {LENGTH}
    assert all(np.all(np.diff(one.versions) >= 0) for _, one in found)
    spans = [len(set(one.versions.tolist())) for _, one in found]
    assert max(spans) == 1 if kind is OnSync.wait else max(spans) > 1
    assert {version for _, one in found for version in one.versions.tolist()} == {0, 1, 2}
    worst = max(difference(fleet.models, PROMPTS[number], one) for number, one in found[:: max(1, len(found) // 8)])
    assert worst < 1e-5


def test_an_engine_that_is_behind_refuses_a_request_and_the_router_asks_the_other(fleet: Fleet) -> None:
    for url, version in zip(fleet.urls, (1, 2), strict=True):
        EngineReceiver(url, fleet.key).receive_tensors([_packed(named(fleet.models[0]))], None, version, True)

    async def main() -> list[Generation]:
        client = EngineClient(fleet.router.url, fleet.key, timeout_s=30.0)
        sampling = SamplingParams(60, ignore_eos=True)
        wanted = [client.generate(PROMPTS[0], sampling, seed, weights=NeededWeights(2)) for seed in range(6)]
        exact = [
            client.generate(PROMPTS[1], sampling, seed, weights=NeededWeights(1, exactly=True)) for seed in range(6)
        ]
        found = await asyncio.gather(*wanted, *exact)
        await client.close()
        return list(found)

    found = asyncio.run(main())
    assert [set(one.versions.tolist()) for one in found] == [{2}] * 6 + [{1}] * 6
    body = {"input_ids": [5, 9], "sampling_params": {"max_new_tokens": 2, "sampling_seed": 0}}
    with pytest.raises(CallError, match=r"status 503.*holds weight version 1, and the request wants 2"):
        call(fleet.urls[0], "/generate", fleet.key, body, headers=NeededWeights(2).headers, timeout=10)
