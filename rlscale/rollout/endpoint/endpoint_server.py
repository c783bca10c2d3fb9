"""The URL on loopback that agents call, each with the key of its session."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

from aiohttp import web

from rlscale.rollout.endpoint.agent_session import Session
from rlscale.rollout.endpoint.anthropic_messages import AnthropicMessages
from rlscale.rollout.endpoint.dialect import ChatRequest, Dialect, Refusal, Reply, unusable
from rlscale.rollout.endpoint.openai_chat import OpenAIChat
from rlscale.rollout.endpoint.openai_responses import OpenAIResponses

_LARGEST_BODY = 1 << 28
_DEEPEST = 100
_KEEP_ALIVE_S = 10.0
_BACKLOG = 4096
"""Connections that wait to be accepted: the samples of an iteration may all begin, with several calls each, at once."""

_log = logging.getLogger(__name__)


def session_closed() -> Refusal:
    """What a call gets whose session has ended."""
    return Refusal(410, "session_closed", "this session has ended")


class Visit(NamedTuple):
    """Where an agent talks to its session."""

    base_url: str
    key: str


class EndpointServer:
    """`start`, then `async with endpoint.open(session) as visit:`; at last `close`.

    Calls of the protocols go to the session that the bearer key names: `/v1/chat/completions`, `/v1/responses`,
    `/v1/messages`. A key whose session has ended gets 410 for ever, any other that is not a session's 401.
    """

    def __init__(self, keep_alive_s: float = _KEEP_ALIVE_S) -> None:
        """`keep_alive_s`: seconds between signs of life in a stream whose answer is being generated."""
        self._keep_alive_s = keep_alive_s
        self._secret = secrets.token_bytes(32)
        self._sessions: dict[str, Session] = {}
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        dialects: dict[str, Dialect] = {
            "/chat/completions": OpenAIChat(),
            "/responses": OpenAIResponses(),
            "/messages": AnthropicMessages(),
        }
        for path, dialect in dialects.items():
            # Anthropic's client writes /v1 itself behind the base URL, OpenAI's does not.
            for prefix in ("/v1", "/v1/v1"):
                app.router.add_post(prefix + path, _Handler(self, dialect).handle)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", _unknown)
        # A client that goes away cancels its call, whose answer is then kept by nobody.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=_BACKLOG).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def close(self) -> None:
        """End all sessions, and listen no more."""
        for session in list(self._sessions.values()):
            await session.close(session_closed)
        if self._runner is not None:
            await self._runner.cleanup()

    @asynccontextmanager
    async def open(self, session: Session) -> AsyncIterator[Visit]:
        """The session is there for calls until the block ends."""
        number = secrets.token_hex(12)
        key = f"sk-{number}-{self._sign(number)}"
        self._sessions[key] = session
        try:
            yield Visit(self.url, key)
        finally:
            del self._sessions[key]
            await session.close(session_closed)

    def session(self, request: web.Request) -> Session:
        """The session that a request names by its key. Refusal if there is none."""
        key = request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        session = self._sessions.get(key)
        if session is not None:
            return session
        number, _, signature = key.removeprefix("sk-").partition("-")
        if hmac.compare_digest(_bytes(signature), self._sign(number).encode()):
            raise session_closed()
        raise Refusal(401, "invalid_api_key", "the key is not that of a session; use the one that the agent was given")

    @property
    def keep_alive_s(self) -> float:
        """Seconds between signs of life."""
        return self._keep_alive_s

    def _sign(self, number: str) -> str:
        """Tells keys that were given out, however long ago, from others."""
        return hmac.new(self._secret, _bytes(number), "sha256").hexdigest()[:32]

    async def _models(self, request: web.Request) -> web.Response:
        try:
            self.session(request)
        except Refusal as refusal:
            return web.json_response(OpenAIChat().error(refusal), status=refusal.status)
        model = {"id": "policy", "object": "model", "created": 0, "owned_by": "rlscale"}
        return web.json_response({"object": "list", "data": [model]})


def _bytes(header: str) -> bytes:
    """What of a header came over the wire, which need not be text."""
    return header.encode(errors="surrogateescape")


async def _unknown(http: web.Request) -> web.Response:
    """What is asked for elsewhere: an error in the words of the protocol that asks."""
    dialect: Dialect = AnthropicMessages() if "/messages" in http.path else OpenAIChat()
    served = "POST /v1/chat/completions, /v1/responses and /v1/messages, and GET /v1/models"
    refusal = Refusal(404, "not_found", f"{http.method} {http.path} is not served here; there are {served}")
    return web.json_response(dialect.error(refusal), status=refusal.status)


class _Handler:
    """Calls of one protocol."""

    def __init__(self, endpoint: EndpointServer, dialect: Dialect) -> None:
        self._endpoint, self._dialect = endpoint, dialect

    async def handle(self, http: web.Request) -> web.StreamResponse:
        """One call, from its body to the end of its answer."""
        try:
            session = self._endpoint.session(http)
            with _refused_if_broken():
                request = self._dialect.read(await _body(http))
            if request.stream:
                return await self._stream(http, session, request)
            reply = await _called(session, request)
            return await self._whole(http, session, request, reply)
        except Refusal as refusal:
            return web.json_response(self._dialect.error(refusal), status=refusal.status)

    async def _whole(
        self, http: web.Request, session: Session, request: ChatRequest, reply: Reply
    ) -> web.StreamResponse:
        response = web.json_response(self._dialect.answer(request, reply))
        try:
            await response.prepare(http)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            session.undelivered(request)
            raise
        return response

    async def _stream(self, http: web.Request, session: Session, request: ChatRequest) -> web.StreamResponse:
        """The answer in events once it is whole. What is refused at once is refused by HTTP status."""
        call = asyncio.ensure_future(_called(session, request))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        kept = False
        try:
            while not (await asyncio.wait([call], timeout=self._endpoint.keep_alive_s))[0]:
                if not response.prepared:
                    await response.prepare(http)
                await response.write(self._dialect.keep_alive)
            try:
                reply = call.result()
            except Refusal as refusal:
                if not response.prepared:
                    raise
                await response.write(self._dialect.error_event(refusal))
                await response.write_eof()
                return response
            kept = True
            if not response.prepared:
                await response.prepare(http)
            await response.write(b"".join(self._dialect.events(request, reply)))
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            call.cancel()
            if kept:
                session.undelivered(request)
            raise
        return response


async def _called(session: Session, request: ChatRequest) -> Reply:
    """The session's answer."""
    with _refused_if_broken():
        return await session.call(request)


@contextmanager
def _refused_if_broken() -> Iterator[None]:
    """What nobody foresaw is written down, and told in the words of the protocol as everything else is."""
    try:
        yield
    except (Refusal, ConnectionError):
        raise
    except Exception as error:
        _log.exception("a call of an agent could not be answered")
        raise Refusal(500, "internal", f"the endpoint failed: {type(error).__name__} {error}") from error


async def _body(http: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await http.read())
    except web.HTTPRequestEntityTooLarge as error:
        raise Refusal(413, "too_large", f"the body is larger than {_LARGEST_BODY >> 20} MiB") from error
    except ValueError as error:
        raise unusable(f"the body is not JSON: {error}", "invalid") from error
    except RecursionError as error:
        raise _too_deep() from error
    if not isinstance(body, dict):
        raise unusable("the body must be an object", "invalid")
    level: list[Any] = [body]
    for _ in range(_DEEPEST):  # what reads it later goes down by calls, of which an interpreter has only so many
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return body
    raise _too_deep()


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _too_deep() -> Refusal:
    return unusable(f"the body has more than {_DEEPEST} levels of objects and lists inside each other", "invalid")
