"""What rlscale relies on in SGLang's HTTP protocol: the same assertions against a real server and the simulator."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from shared_server import SharedServer

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.simulator_config import LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.engines.engine_loads import LoadReport
from rlscale.rollout.engines.preemptions import preemptions_of
from rlscale.rollout.engines.spans import versions_of
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine
from rlscale.serve.supervisor import Supervisor

PROMPT = [8, 11, 14, 7, 12, 15, 2]
SIMULATED = SimulatedEngineConfig(decode_s=0.002, context=512, slots=256, lengths=LengthsConfig(median=6.0))
LONG = 400


@dataclass
class Server:
    """A server as a client sees it."""

    url: str
    model: str
    session: aiohttp.ClientSession
    statuses: list[int] = field(default_factory=list)

    async def call(self, path: str, body: Any = None) -> Any:
        """POST, or GET without a body; the answer, parsed where it is JSON. Its status is in `statuses`."""
        method = "GET" if body is None else "POST"
        async with self.session.request(method, self.url + path, json=body) as response:
            self.statuses.append(response.status)
            if "json" in response.headers.get("Content-Type", ""):
                return await response.json()
            return await response.text()

    async def generate(self, seed: int, tokens: int, rid: str | None = None, prompt: list[int] | None = None) -> Any:
        """`tokens` tokens, however they come: the end token does not end them."""
        sampling = {"max_new_tokens": tokens, "sampling_seed": seed, "ignore_eos": True}
        body: dict[str, Any] = {"input_ids": prompt or PROMPT, "sampling_params": sampling, "return_logprob": True}
        return await self.call("/generate", body if rid is None else {**body, "rid": rid})

    async def update(self, version: int, flush: bool = True) -> Any:
        """The same weights under another number."""
        body = {"model_path": self.model, "weight_version": str(version), "flush_cache": flush}
        return await self.call("/update_weights_from_disk", body)

    async def load(self) -> dict[str, Any]:
        """What the server says of its load."""
        answer = await self.call("/v1/loads?include=core")
        load: dict[str, Any] = answer["loads"][0]
        return load

    async def running(self, requests: int) -> list[asyncio.Task[Any]]:
        """So many long requests, named r0, r1, …, all of which have begun."""
        tasks = [asyncio.create_task(self.generate(seed, LONG, f"r{seed}")) for seed in range(requests)]
        while (await self.load())["num_running_reqs"] < requests:
            assert not any(task.done() for task in tasks)
            await asyncio.sleep(0.01)
        return tasks


Talk = Callable[[Callable[[Server], Awaitable[Any]]], Any]


@pytest.fixture(params=["simulated", "real"])
def talk(request: pytest.FixtureRequest) -> Talk:
    """Runs a scenario with a server whose weight version is 1."""
    return talker(request.getfixturevalue("shared_server") if request.param == "real" else SIMULATED)


@pytest.fixture(params=["simulated", "real"])
def cramped(request: pytest.FixtureRequest) -> Iterator[Talk]:
    """The same with a server whose cache holds 700 tokens."""
    tokens = 700
    if request.param == "simulated":
        yield talker(replace(SIMULATED, cache_tokens=tokens))
        return
    shared: SharedServer = request.getfixturevalue("shared_server")
    folder = request.getfixturevalue("tmp_path")
    supervisor = Supervisor(folder, folder, shared.api_key, fork_server=request.getfixturevalue("fork_server"))
    spec = ServerSpec("cramped", str(shared.model_folder), Device.cpu, options={"max_total_tokens": tokens})
    try:
        yield talker(replace(shared, url=supervisor.start_engine(spec)))
    finally:
        supervisor.stop()


def talker(server: SharedServer | SimulatedEngineConfig) -> Talk:
    """Runs scenarios with that server, at weight version 1."""

    def call(scenario: Callable[[Server], Awaitable[Any]]) -> Any:
        async def against(url: str, key: str, model: str) -> Any:
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
                server = Server(url, model, session)
                await server.call("/continue_generation", {})
                await server.update(1)
                return await asyncio.wait_for(scenario(server), 60)

        async def main() -> Any:
            if isinstance(server, SharedServer):
                return await against(server.url, server.api_key, str(server.model_folder))
            async with SimulatedEndpoint(SimulatedEngine(server), "secret") as endpoint:
                return await against(endpoint.url, "secret", "somewhere")

        return asyncio.run(main())

    return call


def tokens_of(answer: Any) -> list[int]:
    return [entry[1] for entry in answer["meta_info"]["output_token_logprobs"]]


def test_a_list_of_prompts_with_a_seed_each_is_answered_as_each_alone(talk: Talk) -> None:
    async def scenario(server: Server) -> tuple[list[Any], list[Any]]:
        sampling = [{"max_new_tokens": 8, "sampling_seed": seed, "ignore_eos": True} for seed in (3, 4, 3)]
        body = {"input_ids": [PROMPT] * 3, "sampling_params": sampling, "return_logprob": True, "rid": ["a", "b", "c"]}
        return await server.call("/generate", body), [await server.generate(seed, 8) for seed in (3, 4)]

    together, alone = talk(scenario)
    assert [answer["meta_info"]["id"] for answer in together] == ["a", "b", "c"]
    assert [tokens_of(answer) for answer in together] == [tokens_of(alone[i]) for i in (0, 1, 0)]
    assert tokens_of(alone[0]) != tokens_of(alone[1])


def test_an_answer_tells_its_end_its_counts_and_its_spans(talk: Talk) -> None:
    answer = talk(lambda server: server.generate(5, 6))
    meta = answer["meta_info"]
    assert answer["output_ids"] == tokens_of(answer)
    assert meta["finish_reason"] == {"type": "length", "length": 6}
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["num_retractions"]) == (7, 6, 0)
    assert meta["weight_version"] == "1"
    assert meta["weight_versions"] == [{"version": "1", "start": 0, "end": 6}]
    assert all(-math.inf < entry[0] <= 0 for entry in meta["output_token_logprobs"])


def test_a_prompt_that_was_read_before_comes_from_the_cache_until_it_is_flushed(talk: Talk) -> None:
    async def scenario(server: Server) -> list[int]:
        found = []
        for step in ("new", "again", "flush"):
            while step == "flush":
                await server.call("/flush_cache", {})
                if server.statuses[-1] == 200:  # refused for a moment after an answer, while its batch still counts
                    break
                await asyncio.sleep(0.01)
            found.append((await server.generate(1, 2))["meta_info"]["cached_tokens"])
        return found

    assert talk(scenario) == [0, 6, 0]


def test_one_request_of_many_is_aborted_by_its_name_and_returns_what_it_had(talk: Talk) -> None:
    async def scenario(server: Server) -> tuple[Any, list[Any]]:
        first, second = await server.running(2)
        await server.call("/abort_request", {"rid": "r0"})
        aborted = await first
        return aborted, [await server.generate(0, LONG), await second]

    aborted, (whole, other) = talk(scenario)
    had = tokens_of(aborted)
    assert aborted["meta_info"]["finish_reason"]["type"] == "abort"
    assert had == tokens_of(whole)[: len(had)]
    assert len(had) < LONG
    assert other["meta_info"]["finish_reason"]["type"] == "length"


def test_a_request_that_was_cut_off_goes_on_with_the_tokens_it_would_have_had(talk: Talk) -> None:
    async def scenario(server: Server) -> tuple[list[int], list[int]]:
        (request,) = await server.running(1)
        await server.call("/abort_request", {"rid": "", "abort_all": True})
        had = tokens_of(await request)
        rest = await server.generate(0, LONG - len(had), prompt=PROMPT + had)
        return had + tokens_of(rest), tokens_of(await server.generate(0, LONG))

    resumed, whole = talk(scenario)
    assert resumed == whole


def test_aborting_before_the_pause_spares_a_second(talk: Talk) -> None:
    async def seconds_to_pause(server: Server, abort_first: bool) -> float:
        tasks = await server.running(2)
        started = time.monotonic()
        if abort_first:
            await server.call("/abort_request", {"rid": "", "abort_all": True})
            await asyncio.gather(*tasks)
        await server.call("/pause_generation", {"mode": "abort"})
        seconds = time.monotonic() - started
        await asyncio.gather(*tasks)
        await server.call("/continue_generation", {})
        return seconds

    async def scenario(server: Server) -> tuple[float, float]:
        # The least of three: a busy machine adds to either, and never takes the server's sleep of a second away.
        first = [await seconds_to_pause(server, abort_first=True) for _ in range(3)]
        return min(first), await seconds_to_pause(server, abort_first=False)

    first, without = talk(scenario)
    assert without > 0.9
    assert first < without - 0.5


def test_a_paused_server_lets_new_requests_wait_and_answers_what_does_not_generate(talk: Talk) -> None:
    async def scenario(server: Server) -> tuple[bool, str, Any]:
        await server.call("/pause_generation", {"mode": "abort"})
        request = asyncio.create_task(server.generate(1, 2))
        await asyncio.sleep(0.2)
        waited = not request.done()
        await server.update(2)
        version = (await server.call("/model_info"))["weight_version"]
        await server.call("/health")
        await server.call("/continue_generation", {})
        return waited, version, await request

    waited, version, answer = talk(scenario)
    assert (waited, version, answer["meta_info"]["weight_version"]) == (True, "2", "2")


def test_an_answer_tells_that_a_full_cache_interrupted_it(cramped: Talk) -> None:
    async def scenario(server: Server) -> list[Any]:
        answers = await asyncio.gather(*(server.generate(seed, 200) for seed in range(12)))
        return [answer["meta_info"] for answer in answers]

    found = cramped(scenario)
    assert {meta["completion_tokens"] for meta in found} == {200}
    preempted = [preemptions_of(meta, versions_of(meta, 200)) for meta in found]
    print("preemptions", preempted)
    assert max(preempted) > 0
    assert min(preempted) == 0


@pytest.mark.parametrize(
    ("mode", "flush", "retracted"), [("retract", True, 1), ("in_place", False, 0), ("in_place", True, 1)]
)
def test_an_update_in_a_pause_is_a_border_between_spans_and_no_preemption(
    talk: Talk, mode: str, flush: bool, retracted: int
) -> None:
    async def scenario(server: Server) -> Any:
        (request,) = await server.running(1)
        while (await server.load())["num_used_tokens"] < len(PROMPT) + 20:
            await asyncio.sleep(0.005)
        await server.call("/pause_generation", {"mode": mode})
        await server.update(2, flush=flush)
        await server.call("/continue_generation", {})
        return (await request)["meta_info"]

    meta = talk(scenario)
    old, new = meta["weight_versions"]
    assert (old["version"], new["version"], meta["weight_version"]) == ("1", "2", "2")
    assert old["start"] == 0
    assert 0 < old["end"] == new["start"] < new["end"] == LONG
    assert (meta["num_retractions"], preemptions_of(meta, versions_of(meta, LONG))) == (retracted, 0)


def test_the_cache_is_not_flushed_while_requests_run(talk: Talk) -> None:
    async def scenario(server: Server) -> list[int]:
        tasks = await server.running(1)
        await server.call("/flush_cache", {})
        await server.call("/abort_request", {"rid": "", "abort_all": True})
        await asyncio.gather(*tasks)
        await server.call("/flush_cache?timeout=5", {})
        return server.statuses

    statuses = talk(scenario)
    assert 400 in statuses
    assert statuses[-1] == 200


def test_the_load_is_told(talk: Talk) -> None:
    async def scenario(server: Server) -> tuple[dict[str, Any], dict[str, Any]]:
        tasks = await server.running(3)
        busy = await server.load()
        await server.call("/abort_request", {"rid": "", "abort_all": True})
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.2)
        return busy, await server.load()

    busy, idle = talk(scenario)
    assert busy["num_running_reqs"] == 3
    report = LoadReport.of({"loads": [busy]})
    assert (report.running, report.waiting) == (3, 0)
    assert report.usage == pytest.approx(busy["num_used_tokens"] / report.cache_tokens, abs=0.01)
    assert report.most_running >= 3
    assert busy["num_used_tokens"] >= 3
    assert 0 < busy["token_usage"] < 1
    assert (idle["num_running_reqs"], idle["num_waiting_reqs"]) == (0, 0)
    assert busy["max_running_requests"] == idle["max_running_requests"] > 0
    assert isinstance(busy["max_total_num_tokens"], int)


def test_an_unknown_path_and_a_wrong_key_are_refused(talk: Talk) -> None:
    async def scenario(server: Server) -> list[int]:
        server.statuses.clear()
        await server.call("/no_such_call", {})
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer wrong"}) as stranger:
            await Server(server.url, "", stranger, server.statuses).call("/model_info")
            await Server(server.url, "", stranger, server.statuses).call("/health")
        return server.statuses

    assert talk(scenario) == [404, 401, 200]
