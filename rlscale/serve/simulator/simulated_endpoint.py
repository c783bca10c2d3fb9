"""A simulated engine behind HTTP, in real time: what a client, a router or a supervisor cannot tell from a server."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from types import TracebackType

from aiohttp import web

from rlscale.config.derived.needed_weights import fields_of
from rlscale.serve.simulator.simulated_engine import SimulatedEngine

_OPEN = ("/health", "/health_generate")
"""Paths that ask for no key."""
_LARGEST_BODY = 1 << 30
_dumps = partial(json.dumps, default=lambda value: value.tolist())


class SimulatedEndpoint:
    """`async with SimulatedEndpoint(engine) as endpoint:` listens at `endpoint.url`; `port` 0 takes a free one."""

    def __init__(
        self, engine: SimulatedEngine, api_key: str | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.engine = engine
        self._api_key, self._host, self._port = api_key, host, port
        self.url = ""

    async def __aenter__(self) -> SimulatedEndpoint:
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._answer)
        # A client that goes away takes its request with it, as SGLang's server has it.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self.url = f"http://{self._host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        key = self._api_key
        if key and request.path not in _OPEN and request.headers.get("Authorization") != f"Bearer {key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        content = await request.read()
        try:
            body = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            return web.json_response({"error": {"message": "the body is not JSON"}}, status=400)
        if not isinstance(body, dict):
            return web.json_response({"error": {"message": "the body is not an object"}}, status=400)
        try:
            body |= fields_of(request.headers)
        except ValueError as error:
            return web.json_response({"error": {"message": str(error)[:300]}}, status=400)
        try:
            status, answer = await self.engine.call(request.path, body)
        except ConnectionRefusedError:
            return web.Response(status=503)
        except ConnectionResetError:
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError from None
        if answer is None or isinstance(answer, str):
            return web.Response(status=status, text=answer or "")
        return web.json_response(answer, status=status, dumps=_dumps)
