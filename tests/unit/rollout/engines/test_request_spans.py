"""When each request was with which engine."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from rlscale.config.derived.request_headers import ENGINE_HEADER
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.request_spans import MOST, RequestSpans
from rlscale.rollout.engines.sampling_params import SamplingParams


def test_what_an_engine_tells_of_a_request_lies_inside_it() -> None:
    spans, sent = RequestSpans(wanted=True), time.time() - 2.0
    told = {"queue": "0.5", "request_received_ts": sent - 0.1, "forward_entry_time": sent + 0.5}
    told |= {"prefill_finished_time": sent + 1.0, "engine": "127.0.0.1:7", "completion_tokens": 4, "prompt_tokens": 9}
    spans.answered(sent, told)
    (found,), more = spans.take()
    assert (found.engine, found.start, found.tokens, found.prompt_tokens, more) == ("127.0.0.1:7", sent, 4, 9, 0)
    assert found.phases == (("queue", sent, sent + 0.5), ("prefill", sent + 0.5, sent + 1.0))
    assert sent + 2.0 <= found.end <= time.time()
    assert spans.take() == ([], 0)


def test_no_more_are_remembered_than_a_trace_can_show_and_none_where_nobody_asks() -> None:
    spans = RequestSpans(wanted=True)
    for _ in range(MOST + 3):
        spans.answered(0.0, {})
    found, more = spans.take()
    assert (len(found), more) == (MOST, 3)
    quiet = RequestSpans()
    quiet.answered(0.0, {})
    assert quiet.take() == ([], 0)


def test_the_client_remembers_by_which_engine_an_answer_is() -> None:
    meta = {"finish_reason": {"type": "stop"}, "completion_tokens": 1, "output_token_logprobs": [[-0.5, 3, None]]}

    async def scenario() -> None:
        async def generate(_: web.Request) -> web.Response:
            answer = {
                "output_ids": [3],
                "meta_info": {**meta, "weight_versions": [{"version": "0", "start": 0, "end": 1}]},
            }
            return web.json_response(answer, headers={ENGINE_HEADER: "127.0.0.1:30001"})

        app = web.Application()
        app.router.add_post("/generate", generate)
        async with TestServer(app) as server:
            client = EngineClient(str(server.make_url("")))
            client.requests.wanted = True
            await client.generate(np.array([1, 2], np.int32), SamplingParams(max_new_tokens=99), seed=0)
            await client.close()
        (found,), _ = client.requests.take()
        assert (found.engine, found.tokens) == ("127.0.0.1:30001", 1)
        assert found.start <= found.end
        assert client.busy.take() == {"127.0.0.1:30001": [(found.start, pytest.approx(found.end, abs=1.0))]}

    asyncio.run(scenario())
