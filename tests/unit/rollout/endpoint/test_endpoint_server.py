"""The endpoint over HTTP: keys, ends, streams, and clients that go away; OpenAI's own client where it is installed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import aiohttp
import pytest
from scripted_policy import Played, Say, counting

from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.endpoint.agent_session import Limits
from rlscale.rollout.endpoint.endpoint_server import EndpointServer, Visit
from tests.unit.listening import listening

HELLO = {"messages": [{"role": "user", "content": "hello"}], "model": "policy"}
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def visit(
    encoder: PromptEncoder,
    scenario: Callable[[Played, Visit, EndpointServer], Awaitable[Any]],
    say: Say | None = None,
    **how: Any,
) -> Any:
    """The scenario's result, with a session on a server; every token is accounted for at its end."""

    async def main() -> Any:
        played = Played(encoder, say or counting(), **how)
        server = EndpointServer(keep_alive_s=0.05)
        await server.start()
        assert listening(int(server.url.removesuffix("/v1").rpartition(":")[2])) == ["127.0.0.1"]
        try:
            async with server.open(played.session) as place:
                result = await asyncio.wait_for(scenario(played, place, server), 20)
            assert played.balanced()
            return result
        finally:
            await server.close()

    return asyncio.run(main())


def openais_client(place: Visit) -> Any:
    """OpenAI's own, for the session; imported here, since most tests need no two seconds of it."""
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=place.base_url, api_key=place.key)


async def post(place: Visit, path: str, body: Any, key: str | None = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key or place.key}"}
    async with aiohttp.ClientSession() as http, http.post(place.base_url + path, json=body, headers=headers) as answer:
        return answer.status, await answer.text()


def test_openais_client_talks_streams_and_calls_tools(encoder: PromptEncoder) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        async with openais_client(place) as client:
            said: list[Any] = [{"role": "user", "content": "1 + 2?"}]
            first = await client.chat.completions.create(model="policy", messages=said, tools=[ADD], logprobs=True)
            message = first.choices[0].message
            assert message.tool_calls is not None
            assert [call.function.arguments for call in message.tool_calls if call.type == "function"] == ['{"a":1}']
            assert first.choices[0].logprobs is not None
            assert first.choices[0].logprobs.content is not None
            assert "".join(entry.token for entry in first.choices[0].logprobs.content).startswith("<call>add")
            result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "3"}
            said += [message.model_dump(exclude_unset=True), result]
            stream = await client.chat.completions.create(model="policy", messages=said, tools=[ADD], stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "it is 3"
            answer = await client.responses.create(model="policy", input="other", stream=False)
            assert answer.output_text == "it is 3"
            async with client.responses.stream(model="policy", input="another") as events:
                assert (await events.get_final_response()).output_text == "it is 3"
        assert [len(sequence) for sequence in played.session.tree.sequences()] == [2, 1, 1]

    def say(prompt: str) -> str:
        return '<call>add {"a": 1}</call>' if "1 + 2?" in prompt and "tool_response" not in prompt else "it is 3"

    visit(encoder, scenario, say)


def test_a_key_opens_its_own_session_until_that_ends(encoder: PromptEncoder) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        other = Played(encoder, lambda prompt: "the other")
        async with server.open(other.session) as elsewhere:
            assert "the other" in (await post(elsewhere, "/chat/completions", HELLO))[1]
        assert "answer 0" in (await post(place, "/chat/completions", HELLO))[1]
        for path in ("/chat/completions", "/responses", "/messages"):
            status, text = await post(elsewhere, path, HELLO)
            assert (status, "this session has ended" in text) == (410, True)
            for key in ("sk-1-2", "rubbish", "sk-größer"):
                assert (await post(place, path, HELLO, key.encode().decode("latin-1")))[0] == 401

    visit(encoder, scenario)


def test_anthropics_key_is_in_a_header_of_its_own(encoder: PromptEncoder) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        url = place.base_url + "/v1/messages"  # as its client writes it behind a base URL that ends in /v1
        async with (
            aiohttp.ClientSession(headers={"x-api-key": place.key}) as http,
            http.post(url, json={**HELLO, "max_tokens": 99}) as answer,
        ):
            assert (await answer.json())["content"] == [{"type": "text", "text": "answer 0"}]

    visit(encoder, scenario)


def test_a_stream_shows_life_while_the_answer_is_generated(encoder: PromptEncoder) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        played.engine.hold.clear()
        asyncio.get_running_loop().call_later(0.2, played.engine.hold.set)
        status, text = await post(place, "/messages", {**HELLO, "max_tokens": 9, "stream": True})
        kinds = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
        assert status == 200
        assert kinds[:2] == ["ping", "ping"]
        assert kinds[kinds.index("message_start") :] == [
            *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
            *("message_delta", "message_stop"),
        ]

    visit(encoder, scenario)


@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses"])
def test_what_ends_a_session_in_the_middle_of_a_stream_is_an_event_of_it(encoder: PromptEncoder, path: str) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        played.engine.hold.clear()
        body = {"model": "policy", "input": "hello"} if path == "/responses" else {**HELLO, "max_tokens": 9}
        stream = asyncio.create_task(post(place, path, {**body, "stream": True}))
        await asyncio.sleep(0.15)
        await server.close()
        status, text = await stream
        last = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))
        assert status == 200
        assert "this session has ended" in json.dumps(last)

    visit(encoder, scenario)


def test_limits_are_errors_that_clients_do_not_try_again(encoder: PromptEncoder) -> None:
    from openai import APIStatusError

    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        async with openais_client(place) as client:
            said: list[Any] = [*HELLO["messages"]]
            await client.chat.completions.create(model="policy", messages=said)
            for stream in (False, True):
                with pytest.raises(APIStatusError, match=r"rollout\.max_turns=1") as refused:
                    await client.chat.completions.create(
                        model="policy", messages=[{"role": "user", "content": "?"}], stream=stream
                    )
                assert (refused.value.status_code, refused.value.code) == (400, "max_turns")
        assert len(played.engine.prompts) == 1

    visit(encoder, scenario, limits=Limits(1))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_times_out_leaves_no_turn_and_its_retry_does(encoder: PromptEncoder, stream: bool) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        played.engine.hold.clear()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(post(place, "/chat/completions", {**HELLO, "stream": stream}), 0.15)
        await asyncio.sleep(0.05)
        played.engine.hold.set()
        assert "answer 1" in (await post(place, "/chat/completions", {**HELLO, "stream": stream}))[1]
        (turn,) = played.session.tree.turns
        assert turn.answer.text == "answer 1"

    visit(encoder, scenario)


@pytest.mark.parametrize(("body", "message"), [(b"{", "the body is not JSON"), (b"[]", "the body must be an object")])
def test_a_body_that_is_no_request_is_the_clients_error(encoder: PromptEncoder, body: bytes, message: str) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        headers = {"Authorization": f"Bearer {place.key}"}
        url = place.base_url + "/chat/completions"
        async with aiohttp.ClientSession(headers=headers) as http, http.post(url, data=body) as answer:
            assert answer.status == 400
            assert message in (await answer.json())["error"]["message"]

    visit(encoder, scenario)


DEEP = b'{"messages": ' + b"[" * 100_000


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
def test_whatever_goes_wrong_is_told_in_the_words_of_the_protocol(encoder: PromptEncoder, path: str) -> None:
    """As JSON with a type and a message: what clients make an error of, and do not quote as a page of HTML."""

    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        async def broken(request: Any) -> Any:
            raise KeyError("nobody foresaw this")

        async def asked(path: str, body: bytes) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {place.key}"}
            async with (
                aiohttp.ClientSession(headers=headers) as http,
                http.post(place.base_url + path, data=body) as answer,
            ):
                return answer.status, await answer.json()

        played.session.call = broken  # type: ignore[method-assign] # a fault of the endpoint's own
        said = b'"input": "hello"' if path == "/responses" else b'"messages": [{"role": "user", "content": "hello"}]'
        for address, body, status, message in (
            (path, DEEP, 400, "the body has more than 100 levels"),
            (path + "/elsewhere", b"{}", 404, f"POST /v1{path}/elsewhere is not served here"),
            (path, b"{" + said + b"}", 500, "the endpoint failed: KeyError 'nobody foresaw this'"),
            (path, b"{" + said + b', "stream": true}', 500, "the endpoint failed: KeyError"),
        ):
            found, told = await asked(address, body)
            assert found == status
            assert message in told["error"]["message"]
            assert told["error"]["type"]
            assert told.get("type") == ("error" if path == "/messages" else None)

    visit(encoder, scenario)


def test_text_that_no_tokenizer_has_bytes_for_is_the_clients_error_or_an_answer(encoder: PromptEncoder) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        for odd in ("\ud800", "\0", "a\udfffb"):
            status, text = await post(place, "/chat/completions", {"messages": [{"role": "user", "content": odd}]})
            assert status in (200, 400), text

    visit(encoder, scenario)


def test_models_are_listed_for_clients_that_ask(encoder: PromptEncoder) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> list[str]:
        async with openais_client(place) as client:
            return [model.id async for model in client.models.list()]

    assert visit(encoder, scenario) == ["policy"]


def test_a_thousand_calls_may_begin_at_one_moment(encoder: PromptEncoder) -> None:
    async def scenario(played: Played, place: Visit, server: EndpointServer) -> None:
        host, port = place.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        request = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {place.key}\r\n\r\n".encode()
        with ExitStack() as opened:
            # Nothing is accepted meanwhile: the server shares this loop, as it does with agents.
            calls = [opened.enter_context(socket.create_connection((host, int(port)), 2)) for _ in range(1000)]
            for call in calls:
                call.sendall(request)
                call.setblocking(False)
            loop = asyncio.get_running_loop()
            answers = await asyncio.gather(*(loop.sock_recv(call, 100) for call in calls))
        assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}

    visit(encoder, scenario)
