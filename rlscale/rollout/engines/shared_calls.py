"""Short requests that are made at the same moment share a call to an engine.

A request for a few tokens costs more on its way (client, router, the engine's HTTP server) than in the engine;
`benchmarks/request_path.py` has the figures. The engine answers such a call once all of it is generated, so requests
for many tokens, which would wait for one another and have little to gain, travel by themselves. The router knows no
lists of sampling parameters: shared calls go straight to the engines that it lists.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from rlscale.rollout.engines.connection import REFUSALS, Connection
from rlscale.rollout.engines.under_way import UnderWay

_log = logging.getLogger(__name__)

SHORT = 32
"""Most tokens that a request may ask for which shares a call: the longest that it may wait for another."""
_MOST = 64
"""Requests of a call: more save nothing."""
_EACH = ("input_ids", "sampling_params")
"""Fields of a body that differ between the requests of a call: lists there."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """A request; `answer` gets None where it has to be sent by itself."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]
    answer: asyncio.Future[Any]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the requests of a call have in common."""
        rest = {name: value for name, value in self.body.items() if name not in _EACH}
        return tuple(sorted(rest.items())), tuple(sorted(self.headers.items()))


class SharedCalls:
    """Collects the requests of one turn of the event loop."""

    def __init__(
        self,
        connection: Connection,
        engines: Callable[[], Awaitable[list[str]]],
        broken: Callable[[int], None] = lambda requests: None,
        under_way: UnderWay | None = None,
    ) -> None:
        """`engines`: the URLs of those that can be asked. `broken` is told of requests of which nobody knows whether an
        engine has sampled them. `under_way`: calls are among what is there.
        """
        self._connection = connection
        self._engines = engines
        self._broken = broken
        self._waiting = UnderWay() if under_way is None else under_way
        self._asked: list[_Asked] = []
        self._turn = itertools.count()
        self.aside: Collection[str] = ()
        """Engines that are not asked, although they can be."""
        self.under_way: Counter[str] = Counter()
        """Calls that have begun and not ended, by the URL of their engine."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """The engine's answer to one request; None if it has to be sent by itself.

        That is so where no other is made at the same moment, and where the call failed: then each of its requests is
        sent, and fails, for itself.
        """
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._send)
        asked = _Asked(body, headers, loop.create_future())
        self._asked.append(asked)
        return await asked.answer

    async def close(self) -> None:
        """Requests under way are left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        kinds: dict[tuple[Any, ...], list[_Asked]] = {}
        for one in asked:
            if not one.answer.done():
                kinds.setdefault(one.kind, []).append(one)
        for together in kinds.values():
            if len(together) == 1:
                _answer(together, [None])
            else:
                self._start(self._spread(together))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _spread(self, asked: Sequence[_Asked]) -> None:
        """Equal parts for all engines, each in as few calls as it takes."""
        urls: list[str] = []
        try:
            urls = [url for url in await self._engines() if url not in self.aside]
        finally:
            if not urls:
                _answer(asked, [None] * len(asked))
        size = min(_MOST, -(-len(asked) // len(urls))) if urls else len(asked)
        for first in range(0, len(asked) if urls else 0, size):
            part = asked[first : first + size]
            url = urls[next(self._turn) % len(urls)]
            self.under_way[url] += 1
            call = self._start(self._call(url, part))
            call.add_done_callback(partial(self._ended, url))
            left = partial(_left, part, call)
            for one in part:
                one.answer.add_done_callback(left)

    def _ended(self, url: str, _: asyncio.Task[None]) -> None:
        self.under_way[url] -= 1

    async def _call(self, url: str, asked: Sequence[_Asked]) -> None:
        body = {**asked[0].body, **{name: [one.body[name] for one in asked] for name in _EACH}}
        answers: Sequence[Any] = [None] * len(asked)
        try:
            async with self._waiting.waiting():
                status, found = await self._connection.post(url + "/generate", body, asked[0].headers)
            if status == 200 and isinstance(found, list) and len(found) == len(asked):
                answers = found
            elif status >= 500 and status not in REFUSALS:
                self._break(url, asked, f"HTTP {status}: {str(found)[:300]}")
        except ConnectionRefusedError:
            pass
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as error:
            self._break(url, asked, f"{type(error).__name__} {error}")
        finally:
            _answer(asked, answers)

    def _break(self, url: str, asked: Sequence[_Asked], why: str) -> None:
        _log.info("%d requests of a call to %s are sent again, each by itself: %s", len(asked), url, why)
        self._broken(len(asked))


def _answer(asked: Sequence[_Asked], answers: Sequence[Any]) -> None:
    for one, answer in zip(asked, answers, strict=True):
        if not one.answer.done():
            one.answer.set_result(answer)


def _left(asked: Sequence[_Asked], call: asyncio.Task[None], _: asyncio.Future[Any]) -> None:
    """Nobody waits for the call any more: the engine ends what it generates for a client that has gone."""
    if all(one.answer.cancelled() for one in asked):
        call.cancel()
