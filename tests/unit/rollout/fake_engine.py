"""An engine without a model that speaks SGLang's /generate, for tests of scheduling.

tests/e2e/rollout/test_contract.py runs the same assertions against it and against a real server.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from aiohttp import web

from rlscale.config.derived.request_headers import TRAJECTORY_HEADER

END = 3
CONTEXT = 512


def experts_by_place(tokens: int) -> np.ndarray:
    """Experts that tell places apart, of 3 layers with 2 of 6: (token + layer) mod 6 and the one after it."""
    first = (np.arange(tokens)[:, None] + np.arange(3)) % 6
    return np.stack([first, (first + 1) % 6], axis=-1)


def encoded(experts: np.ndarray) -> str:
    """Experts as SGLang sends them."""
    return base64.b64encode(np.asarray(experts, "<i4").tobytes()).decode()


class FakeEngine:
    """`async with FakeEngine() as engine:` listens on a free port.

    Tokens depend on prompt, seed and `weights` only. `delay(body)` gives the seconds a request takes, `fault(body)`
    None, an HTTP status, or "drop" to break the connection. `requests` are the bodies in the order of their arrival.
    """

    def __init__(self, api_key: str | None = "secret") -> None:
        self.api_key = api_key
        self.weights = 0
        self.weight_version: str | None = None  # what it reports; None: the version it was given last
        self.synced = "0"
        self.routed: Callable[[int], Any] | None = None  # by the number of input tokens; None: does not know of experts
        self.takes_lists = False  # else a list of prompts is refused, as by an engine that knows none
        self.lists: list[int] = []  # how many prompts each list had
        self.delay: Callable[[dict[str, Any]], float] = lambda body: 0.0
        self.fault: Callable[[dict[str, Any]], int | str | None] = lambda body: None
        self.fault_text = '{"error": "fault"}'
        self.requests: list[dict[str, Any]] = []
        self.trajectories: list[str | None] = []  # what each request names to a router
        self.breaks_after: Callable[[dict[str, Any]], int | None] = lambda body: None
        """Of an answer that is streamed: the parts after which its connection breaks, None for none."""
        self.hangs_after: Callable[[dict[str, Any]], int | None] = lambda body: None
        """The same of one that comes no further, while its connection stays."""
        self.part = 3  # tokens of a part
        self.running = 0
        self.most_running = 0
        self.url = ""

    async def __aenter__(self) -> FakeEngine:
        app = web.Application()
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/abort_request", self._abort)
        app.router.add_post("/separate_reasoning", self._separate)
        self._aborted = asyncio.Event()
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    def seeds(self) -> list[int]:
        """Seeds of all requests so far."""
        return [body["sampling_params"]["sampling_seed"] for body in self.requests]

    async def _abort(self, request: web.Request) -> web.Response:
        self._aborted.set()
        self._aborted = asyncio.Event()
        return web.Response()

    async def _separate(self, request: web.Request) -> web.Response:
        """Thinking goes up to the last "3", as if that ended it."""
        thinking, _, rest = (await request.json())["text"].rpartition("3")
        return web.json_response({"reasoning_text": thinking, "text": rest})

    async def _generate(self, request: web.Request) -> web.Response:
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        body = await request.json()
        if isinstance(body["input_ids"][0], list):
            return await self._generate_list(body)
        self.requests.append(body)
        self.trajectories.append(request.headers.get(TRAJECTORY_HEADER))
        fault = self.fault(body)
        if fault == "drop":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if len(body["input_ids"]) > CONTEXT:
            return web.json_response({"error": {"message": "the input is longer than the context"}}, status=400)
        if fault is not None:
            return web.Response(text=self.fault_text, status=fault)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            seconds = self.delay(body)
            aborted = self._aborted
            if seconds:
                await asyncio.wait([asyncio.create_task(aborted.wait())], timeout=seconds)
            answer = self._answer(body)
            if aborted.is_set():
                _cut_in_half(answer["meta_info"])
            by_header = request.headers.get("x-request-id-return-routed-experts") == "1"
            if self.routed is not None and by_header and body.get("return_routed_experts"):
                inputs = len(body["input_ids"]) + len(answer["meta_info"]["output_token_logprobs"]) - 1
                answer["meta_info"]["routed_experts"] = self.routed(inputs)
            if body.get("stream"):
                return await self._stream(request, answer["meta_info"], body)
            return web.json_response(answer)
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, meta: dict[str, Any], body: dict[str, Any]) -> web.StreamResponse:
        """The answer in parts, as a server with `incremental_streaming_output` gives it."""
        response, entries = web.StreamResponse(), meta["output_token_logprobs"]
        breaks, hangs = self.breaks_after(body), self.hangs_after(body)
        await response.prepare(request)
        for number, start in enumerate(range(0, len(entries), self.part)):
            if number == hangs:
                await asyncio.Event().wait()
            if number == breaks:
                assert request.transport is not None
                request.transport.close()
                return response
            end = min(start + self.part, len(entries))
            spans = [{**meta["weight_versions"][0], "end": end}]
            part = {**meta, "output_token_logprobs": entries[start:end], "completion_tokens": end}
            part |= {"weight_versions": spans, "finish_reason": meta["finish_reason"] if end == len(entries) else None}
            await response.write(b"data: " + json.dumps({"text": "", "meta_info": part}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _generate_list(self, body: dict[str, Any]) -> web.Response:
        if not self.takes_lists:
            return web.json_response({"error": "input_ids"}, status=400)
        self.lists.append(len(body["input_ids"]))
        each = [
            body | {"input_ids": tokens, "sampling_params": sampling}
            for tokens, sampling in zip(body["input_ids"], body["sampling_params"], strict=True)
        ]
        if any(len(one["input_ids"]) > CONTEXT for one in each):
            return web.json_response({"error": "too long"}, status=400)
        self.requests += each
        self.running += 1
        await asyncio.sleep(max(self.delay(one) for one in each))
        self.running -= 1
        if (fault := next(filter(None, map(self.fault, each)), None)) is not None:
            return web.json_response({"error": "fault"}, status=fault if isinstance(fault, int) else 500)
        return web.json_response([self._answer(one) for one in each])

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        sampling, prompt = body["sampling_params"], body["input_ids"]
        stream = random.Random(str((sampling["sampling_seed"], prompt, self.weights)))
        tokens: list[int] = []
        ends = {END, *sampling.get("stop_token_ids", ())}
        while len(tokens) < sampling["max_new_tokens"] and not ends & set(tokens[-1:]):
            tokens.append(stream.randint(END, 10))
        reason: dict[str, Any] = {"type": "stop", "matched": tokens[-1]}
        if tokens[-1] not in ends:
            reason = {"type": "length", "length": sampling["max_new_tokens"]}
        meta: dict[str, Any] = {
            "output_token_logprobs": [[-math.log(8.0), token, None] for token in tokens],
            "finish_reason": reason,
        }
        version = self.synced if self.weight_version is None else self.weight_version
        meta |= {"weight_version": version, "weight_versions": [{"version": version, "start": 0, "end": len(tokens)}]}
        if body.get("logprob_start_len") == 0:
            meta["input_token_logprobs"] = [[None if i == 0 else -1.0, t, None] for i, t in enumerate(prompt)]
        return {"text": "", "meta_info": meta}


def _cut_in_half(meta: dict[str, Any]) -> None:
    """An answer as it is when it was aborted half-way."""
    meta["finish_reason"] = {"type": "abort", "message": "Aborted"}
    entries = meta["output_token_logprobs"]
    del entries[len(entries) // 2 :]
    meta["weight_versions"][0]["end"] = len(entries)
