"""Answers in parts: put together they are the whole one, and what came of one that broke off is gone on with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
from fake_engine import FakeEngine

from rlscale.config.derived.streaming import IN_PARTS, KEPT_EVERY, sends_parts
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.connection import HttpConnection
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.generation import RequestFailed
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.engines.streamed_answer import StreamedAnswer, events
from rlscale.rollout.ledger import Ledger

PROMPT = np.array([5, 6, 7], np.int32)
LONG = SamplingParams(max_new_tokens=KEPT_EVERY + 1, ignore_eos=True)


def talk(scenario: Callable[[FakeEngine, EngineClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with FakeEngine() as engine:
            client = EngineClient(engine.url, "secret")
            client.in_parts = True
            try:
                return await asyncio.wait_for(scenario(engine, client), 20)
            finally:
                await client.close()

    return asyncio.run(main())


def test_the_parts_of_an_answer_are_the_whole_one_and_short_ones_come_at_once() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> Any:
        in_parts = await client.generate(PROMPT, LONG, seed=4)
        client.in_parts = False
        at_once = await client.generate(PROMPT, LONG, seed=4)
        client.in_parts = True
        await client.generate(PROMPT, LONG.of_length(KEPT_EVERY), seed=4)
        return in_parts, at_once, [bool(body.get("stream")) for body in engine.requests]

    in_parts, at_once, streamed = talk(scenario)
    assert streamed == [True, False, False]
    assert len(in_parts.tokens) > 3
    for name in ("tokens", "logprobs", "versions"):
        np.testing.assert_array_equal(getattr(in_parts, name), getattr(at_once, name))
    assert in_parts.finish_reason == at_once.finish_reason
    assert not in_parts.interrupted


def test_a_response_whose_engine_ends_goes_on_behind_the_tokens_that_came() -> None:
    ledger = Ledger()

    async def scenario(engine: FakeEngine, client: EngineClient) -> Any:
        engine.breaks_after = lambda body: 2 if len(engine.requests) == 1 else None
        engines, attempt = Continued(client, Cuts()), Attempt(lambda: 0, ledger)
        whole = await engines.generate(PROMPT, LONG, 4, Admission(1), attempt)
        return whole, engine.requests, client.interrupted, client.retried

    whole, (first, second), interrupted, retried = talk(scenario)
    assert (interrupted, retried) == (1, 0)
    kept = second["input_ids"][len(first["input_ids"]) :]
    assert len(kept) == 6, "two parts of three tokens"
    assert whole.tokens.tolist()[:6] == kept
    assert second["sampling_params"]["max_new_tokens"] == KEPT_EVERY + 1 - 6
    assert second["sampling_params"]["sampling_seed"] == 4
    assert ledger.tokens.received == len(whole.tokens), "none was received twice"
    assert not any(name.startswith("discarded") for name in ledger.tokens.fates)


def test_a_response_that_is_broken_off_goes_on_behind_the_tokens_that_came() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> Any:
        engine.hangs_after = lambda body: 2 if len(engine.requests) == 1 else None
        engines, attempt = Continued(client, Cuts()), Attempt(lambda: 0, Ledger())
        going = asyncio.create_task(engines.generate(PROMPT, LONG, 4, Admission(1), attempt))
        while not engine.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        client.under_way.break_off(client.under_way.now())
        return await going, engine.requests, client.interrupted, client.retried, client.under_way.now()

    whole, (first, second), interrupted, retried, left = talk(scenario)
    assert (interrupted, retried, left) == (1, 0, frozenset())
    kept = second["input_ids"][len(first["input_ids"]) :]
    assert (len(kept), whole.tokens.tolist()[:6]) == (6, kept)


def test_tokens_that_came_are_kept_where_a_later_part_says_that_the_engine_is_not_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = HttpConnection.post_in_parts

    async def ends_with_503(*arguments: Any) -> tuple[int, Any]:
        try:
            return await whole(*arguments)
        except (ConnectionError, aiohttp.ClientError):
            return 503, "ended"

    async def scenario(engine: FakeEngine, client: EngineClient) -> Any:
        engine.breaks_after = lambda body: 2
        return await client.generate(PROMPT, LONG, seed=4), client.interrupted, len(engine.requests)

    monkeypatch.setattr(HttpConnection, "post_in_parts", ends_with_503)
    found, interrupted, requests = talk(scenario)
    assert (len(found.tokens), found.interrupted, interrupted, requests) == (6, True, 1, 1)


def test_an_answer_that_breaks_off_before_its_first_token_is_asked_for_again() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> Any:
        engine.breaks_after = lambda body: 0 if len(engine.requests) < 3 else None
        return await client.generate(PROMPT, LONG, seed=4), client.interrupted, client.retried

    whole, interrupted, retried = talk(scenario)
    assert len(whole.tokens) > 0
    assert (whole.interrupted, interrupted, retried) == (False, 0, 2)


def test_a_request_that_the_engine_refuses_in_a_part_fails_as_otherwise() -> None:
    heard = StreamedAnswer()
    assert heard.hear({"error": {"message": "no", "code": 400}}) == (400, "no")
    reason = {"type": "abort", "status_code": 503, "message": "ended"}
    assert heard.hear({"meta_info": {"finish_reason": reason}}) == (503, "ended")

    async def scenario(engine: FakeEngine, client: EngineClient) -> None:
        engine.fault = lambda body: 400
        with pytest.raises(RequestFailed, match="HTTP 400"):
            await client.generate(PROMPT, LONG, seed=4)

    talk(scenario)


def entries(*tokens: int) -> list[list[Any]]:
    return [[-1.0, token, None] for token in tokens]


def test_an_engine_that_sends_all_its_tokens_every_time_is_understood_and_one_without_versions_keeps_nothing() -> None:
    heard = StreamedAnswer()
    for tokens in ((4,), (4, 5), (4, 5, 6)):
        meta = {"output_token_logprobs": entries(*tokens), "completion_tokens": len(tokens), "finish_reason": None}
        heard.hear({"meta_info": meta})
    assert heard.kept is None, "nobody knows which weights they are of"
    heard.hear({"meta_info": {**meta, "weight_versions": [{"version": "2", "start": 0, "end": 3}]}})
    assert heard.kept is not None
    assert heard.kept["meta_info"]["output_token_logprobs"] == entries(4, 5, 6)
    assert heard.whole is None


def test_a_request_that_is_aborted_while_it_waits_again_has_each_token_once() -> None:
    """SGLang sends all of them then, in one part with those that were new and not sent yet."""
    heard = StreamedAnswer()
    heard.hear({"meta_info": {"output_token_logprobs": entries(4, 5), "completion_tokens": 2, "finish_reason": None}})
    reason = {"type": "abort", "message": "Abort in waiting queue"}
    meta = {"output_token_logprobs": entries(6, 4, 5, 6), "completion_tokens": 3, "finish_reason": reason}
    heard.hear({"meta_info": meta})
    assert heard.whole is not None
    assert heard.whole["meta_info"]["output_token_logprobs"] == entries(4, 5, 6)


def test_events_are_read_however_they_are_cut_and_an_end_without_done_is_an_error() -> None:
    text = b"".join(b"data: " + json.dumps({"n": n}).encode() + b"\n\n" for n in range(3))

    async def read(whole: bytes, size: int) -> list[Any]:
        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(whole), size):
                yield whole[start : start + size]

        return [event["n"] async for event in events(chunks())]

    for size in (1, 7, 1000):
        assert asyncio.run(read(text + b"data: [DONE]\n\n", size)) == [0, 1, 2]
    for broken in (text, b"data: {\n\n"):
        with pytest.raises(ConnectionError):
            asyncio.run(read(broken, 5))


def test_engines_that_rlscale_starts_send_parts_and_others_where_their_options_say_so() -> None:
    assert sends_parts(dict(IN_PARTS))
    assert not sends_parts({"stream_interval": 1, "incremental_streaming_output": True})
    assert not sends_parts({"stream_interval": 64})
