"""How requests reach a URL: over HTTP, or whatever else answers as an engine does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import aiohttp

from rlscale.config.derived.request_headers import ENGINE_HEADER
from rlscale.rollout.engines.streamed_answer import StreamedAnswer, events


class Connection(Protocol):
    """Posts JSON and brings the answer.

    ConnectionRefusedError while nobody is there at all; any other ConnectionError, aiohttp.ClientError or TimeoutError
    for a request that broke on its way, of which nobody knows what became.
    """

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        """HTTP status, and the answer: parsed for status 200, else its text.

        A generation's `meta_info` has the `engine` (host and port), where that says so.
        """

    async def get(self, url: str) -> tuple[int, Any]:
        """The same of a request without a body. Engines know nothing at a router's /workers: they answer 404."""

    async def close(self) -> None:
        """Let go of everything; requests under way fail."""


REFUSALS = frozenset({429, 503})
"""Statuses of an answer to what no engine has begun: too many requests, nobody there, or not with the weights that it
needs."""

_IDLE_S = 3.0
"""Seconds that an unused connection is kept. An engine closes its end after 5 (SGLang's default): a request sent just
then breaks off, and nobody knows whether it was sampled."""

Connect = Callable[[str | None, float, int], Connection]
"""Makes a connection from an API key, the seconds that a request may take, and how many may be under way at once."""


class HttpConnection:
    """A connection pool over HTTP."""

    def __init__(self, api_key: str | None, timeout_s: float, limit: int) -> None:
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._limit = limit
        self._open: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        """See Connection."""
        return await self._ask("POST", url, json=body, headers=headers)

    async def get(self, url: str) -> tuple[int, Any]:
        """See Connection."""
        return await self._ask("GET", url)

    async def post_in_parts(
        self, url: str, body: Mapping[str, Any], headers: Mapping[str, str], heard: StreamedAnswer
    ) -> tuple[int, Any]:
        """The same, of an answer that comes in parts: `heard` gets each as it comes, and what is returned is whole.

        ConnectionError, or aiohttp.ClientError, where it breaks off.
        """
        try:
            async with self._session().post(url, json=body, headers=headers) as response:
                if response.status != 200:
                    return response.status, await response.text()
                status, answer = await _heard(events(response.content.iter_any()), heard)
                return status, _of_engine(answer, response.headers.get(ENGINE_HEADER))
        except aiohttp.ClientConnectorError as error:
            raise ConnectionRefusedError(str(error)) from error

    async def _ask(self, method: str, url: str, **sent: Any) -> tuple[int, Any]:
        try:
            async with self._session().request(method, url, **sent) as response:
                if response.status != 200:
                    return response.status, await response.text()
                answer = await response.json(content_type=None)
                return response.status, _of_engine(answer, response.headers.get(ENGINE_HEADER))
        except aiohttp.ClientConnectorError as error:
            raise ConnectionRefusedError(str(error)) from error

    async def close(self) -> None:
        """See Connection."""
        if self._open is not None:
            await self._open.close()
            self._open = None

    def _session(self) -> aiohttp.ClientSession:
        # Made at the first request: it belongs to the event loop that runs then.
        if self._open is None:
            connector = aiohttp.TCPConnector(limit=self._limit, keepalive_timeout=_IDLE_S)
            timeout = aiohttp.ClientTimeout(total=self._timeout_s)
            self._open = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=timeout)
        return self._open


async def _heard(parts: AsyncIterator[Any], heard: StreamedAnswer) -> tuple[int, Any]:
    failed = None
    try:
        async for part in parts:
            failed = failed or heard.hear(part)
    except (aiohttp.ClientError, ConnectionError):
        if heard.whole is None and failed is None:
            raise
    if failed is None and heard.whole is None:
        raise ConnectionError("the answer broke off")
    return failed or (200, heard.whole)


def _of_engine(answer: Any, engine: str | None) -> Any:
    """The answer, or each of a list, with what the response's header says."""
    if engine is not None:
        for one in answer if isinstance(answer, list) else [answer]:
            if isinstance(one, dict) and isinstance(one.get("meta_info"), dict):
                one["meta_info"]["engine"] = engine
    return answer
