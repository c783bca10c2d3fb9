"""Malformed HTTP requests to the endpoints that a run opens for others: the agents', and a simulated engine's.

Good bodies of every protocol are damaged by a seed: values of another type, depth, length or alphabet somewhere inside,
or bytes that are no JSON; and so are the headers with an agent's key. Each request must be answered in time, with
success or with a status of 4xx and JSON that says why (or 503, of an engine without the weights that it needs), and
leave the endpoint as it was.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from rlscale.config.derived.needed_weights import FIELDS
from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.rollout.endpoint.endpoint_server import EndpointServer
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine
from tests.unit.rollout.endpoint.scripted_policy import Played, make_encoder

LIMIT_S = 10.0
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
AGENTS: dict[str, Any] = {
    "/chat/completions": {
        "model": "policy",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "1 + 2?"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
        "max_tokens": 8,
        "stop": ["\n"],
        "stream": False,
        "logprobs": True,
        "n": 1,
    },
    "/responses": {
        "model": "policy",
        "instructions": "be brief",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "1 + 2?"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "3"},
        ],
        "tools": [{"type": "function", "name": "add", "parameters": {"type": "object"}}],
        "max_output_tokens": 8,
        "stream": False,
    },
    "/messages": {
        "model": "policy",
        "system": [{"type": "text", "text": "be brief"}],
        "messages": [
            {"role": "user", "content": "1 + 2?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "3"}]},
        ],
        "tools": [{"name": "add", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "max_tokens": 8,
        "stop_sequences": ["\n"],
        "stream": False,
    },
}
ENGINE: dict[str, Any] = {
    "/generate": {
        "input_ids": [1, 2, 3],
        "sampling_params": {"max_new_tokens": 4, "temperature": 1.0, "sampling_seed": 3},
        "return_logprob": True,
        "rid": "one",
        "oldest_weights": -1,
        "newest_weights": 10**18,
    },
    "/abort_request": {"abort_all": True},
    "/pause_generation": {"mode": "abort"},
    "/continue_generation": {},
    "/update_weights_from_tensor": {"serialized_named_tensors": ["1"], "weight_version": "1"},
    "/nowhere": {},
}
NASTY: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2.5, 1e308, 10**30, float("nan"), float("inf")),
    *("", "x", "\0", "\ud800", "ä\u2028\u202e", "<|im_end|>", "policy", "9" * 5000, "long " * 20_000),
    *([], {}, [[]], [None], [{}], {"": None}, {"type": {}}, {"type": "image_url"}, {"role": []}),
)
"""What stands in the place of a value."""
VERSIONS = ("-1", "0", "", "x", "1.5", "1e3", "None", "0x1", "\u00b2", "9" * 5000)
"""What a header says of the weights that a request needs."""
BYTES = (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{}{}", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000)


@dataclass(frozen=True)
class Answered:
    """A request and what came of it."""

    path: str
    sent: bytes
    status: int | None
    """None for no answer in time, or none at all."""
    text: str

    @property
    def good(self) -> bool:
        """Whether it was answered as it should be."""
        if self.status == 503 and self.text.startswith("the engine holds weight version"):
            return True
        if self.status is None or not (200 <= self.status < 300 or 400 <= self.status < 500):
            return False
        return self.status < 300 or "Traceback" not in self.text


def requests(bodies: dict[str, Any], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Paths and damaged bodies: those of `BYTES` for every path first, then drawn ones."""
    yield from ((path, content) for path in bodies for content in BYTES)
    draw = random.Random(seed)
    for _ in range(count):
        path = draw.choice(sorted(bodies))
        body = copy.deepcopy(bodies[path])
        for _ in range(draw.choice((1, 1, 2, 3))):
            body = _damaged(body, draw)
        content = json.dumps(body).encode()
        if draw.random() < 0.1:
            at = draw.randrange(len(content))
            content = content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        yield path, content


def _damaged(body: Any, draw: random.Random) -> Any:
    """Another value in one of the body's places, or one of its entries gone or twice there."""
    places = [*_places(body)]
    if not places:
        return draw.choice(NASTY)
    inside, key = draw.choice(places)
    what = draw.randrange(6)
    if what == 0:
        del inside[key]
    elif what == 1 and isinstance(inside, list):
        inside.insert(key, inside[key])  # the same one: a copy of what is nested deep would be made by recursion
    elif what == 2:
        deep: Any = inside[key]
        for _ in range(draw.choice((3, 250))):
            deep = [deep] if draw.random() < 0.5 else {"content": deep}
        inside[key] = deep
    else:
        inside[key] = copy.deepcopy(draw.choice(NASTY))
    return body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def damaged_keys(key: str) -> tuple[bytes, ...]:
    """Headers in place of the one with a good key: bytes that are no text, parts of keys, lengths."""
    good = key.encode()
    keys = (b"\xff", b"sk-\xff-\xfe", b"sk--", b"sk-\xc3\xa4-\xed\xa0\x80", b"9" * 5000)
    values = (b"", b"Bearer", *(b"Bearer " + one for one in (*keys, good + b"\xff", good[:-1], good[::-1])))
    return tuple(name + value for name in (b"Authorization: ", b"x-api-key: ") for value in values)


async def to_agents(count: int, seed: int) -> list[Answered]:
    """Requests to the endpoint of agents, each in a session of its own. AssertionError if one left something behind."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = make_encoder(Path(folder))
    server = EndpointServer(keep_alive_s=1.0)
    await server.start()
    found = []
    try:
        async with aiohttp.ClientSession() as http:
            for path, content in requests(AGENTS, count, seed):
                played = Played(encoder, lambda prompt: "it is 3")
                async with server.open(played.session) as place:
                    headers = {"Authorization": f"Bearer {place.key}"}
                    found.append(await _post(http, place.base_url, path, content, headers))
                assert played.balanced(), found[-1]
        played = Played(encoder, lambda prompt: "it is 3")
        async with server.open(played.session) as place:
            for path in AGENTS:
                found += [await _with_header(place.base_url, path, one) for one in damaged_keys(place.key)]
        assert not played.session.unheeded
    finally:
        await server.close()
    return found


async def to_engine(count: int, seed: int) -> list[Answered]:
    """Requests to a simulated engine, which must answer a good one at the end."""
    engine, draw = SimulatedEngine(SimulatedEngineConfig(decode_s=1e-6)), random.Random(seed)
    found = []
    async with SimulatedEndpoint(engine) as endpoint, aiohttp.ClientSession() as http:
        for path, content in requests(ENGINE, count, seed):
            headers = {draw.choice([*FIELDS]): draw.choice(VERSIONS)} if draw.random() < 0.3 else {}
            found.append(await _post(http, endpoint.url, path, content, headers))
            await _post(http, endpoint.url, "/continue_generation", b"", {})  # else whatever follows would wait
        last = await _post(http, endpoint.url, "/generate", json.dumps(ENGINE["/generate"]).encode(), {})
        assert last.status == 200, last
    return found


async def _with_header(url: str, path: str, header: bytes) -> Answered:
    """A good body with a header that a client would not send."""
    host, _, rest = url.removeprefix("http://").partition("/")
    content = json.dumps(AGENTS[path]).encode()
    head = f"POST /{rest}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
    name, _, port = host.partition(":")
    try:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection(name, int(port))
            writer.write(head.encode() + header + b"\r\n\r\n" + content)
            answer = (await reader.read()).decode(errors="replace")
            writer.close()
    except (TimeoutError, OSError) as error:
        return Answered(path, header, None, repr(error))
    status = answer.partition(" ")[2][:3]
    return Answered(path, header, int(status) if status.isdecimal() else None, answer)


async def _post(http: aiohttp.ClientSession, url: str, path: str, content: bytes, headers: dict[str, str]) -> Answered:
    try:
        async with asyncio.timeout(LIMIT_S), http.post(url + path, data=content, headers=headers) as answer:
            return Answered(path, content, answer.status, await answer.text(errors="replace"))
    except (TimeoutError, aiohttp.ClientError) as error:
        return Answered(path, content, None, repr(error))


SERVERS: dict[str, Callable[[int, int], Any]] = {"the agents' endpoint": to_agents, "a simulated engine": to_engine}
