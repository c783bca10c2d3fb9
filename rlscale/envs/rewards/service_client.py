"""Asking a service over HTTP on behalf of rewards: with retries, a deadline, and failures that say what was wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from rlscale.config.errors import UserError
from rlscale.envs.reward import RewardFailed

_LONGEST_WAIT_S = 10.0
_SHOWN = 200


_UNAVAILABLE = (429, 502, 503)
"""Answers of a router that has no healthy engine, or too many requests. Of one that comes back these use up no try."""
_AWAY_S = 600.0
"""How long a service that comes back is waited for: an engine of a large model takes minutes to start."""


class Answered(RewardFailed):
    """The service is there, and answered with another status than 200."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def refuses(self) -> bool:
        """Whether it says that it can do nothing with what it was asked: too long, or not to be read."""
        return self.status in (400, 413, 422)


class Place(NamedTuple):
    """Where a service is at the moment."""

    url: str
    key: str | None
    """Sent as a bearer token."""


class ServiceClient:
    """Posts JSON to one address and gives the JSON that comes back.

    A connection that fails, HTTP 408, 429 and 5xx are tried again, `retries` times, after waits that double from
    `wait_s`. `key_file`: a file with the key that is sent as a bearer token; it is read anew with the first request.
    """

    def __init__(
        self, url: str, *, timeout_s: float, retries: int, key_file: str | None = None, wait_s: float = 0.5
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"url={url}: must begin with http:// or https://")
        if key_file is not None and not Path(key_file).expanduser().is_file():
            raise UserError(f"key_file={key_file}: there is no such file")
        self._find = lambda: Place(url, None if key_file is None else _read_key(key_file))
        self._comes_back = False
        self._set_limits(timeout_s, retries, wait_s)

    @classmethod
    def following(
        cls, find: Callable[[], Place], *, timeout_s: float, retries: int, wait_s: float = 0.5
    ) -> ServiceClient:
        """For a service that somebody starts again when it dies: `find` says where it is, before every try.

        While nobody is there (the connection is refused, or its router has no worker) the retries are not used up; it
        is waited for, up to ten minutes.
        """
        client = cls.__new__(cls)
        client._find, client._comes_back = find, True
        client._set_limits(timeout_s, retries, wait_s)
        return client

    async def post(self, body: Any) -> Any:
        """What the service answers. RewardFailed with the last reason once no try is left, Answered for a status."""
        reason, url, wait_s, tries, began = "", "", self._wait_s, 0, time.monotonic()
        status = None
        while tries <= self._retries:
            if reason:
                await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))
                wait_s *= 2
            away, status = False, None
            try:
                url, key = await asyncio.to_thread(self._find)
                status, answer = await self._once(url, key, body)
                if status == 200:
                    return answer
                reason, away = f"HTTP {status}{': ' if answer else ''}{answer}", status in _UNAVAILABLE
                if status not in (408, 429) and status < 500:
                    break
            except TimeoutError:
                reason = f"no answer within {self._timeout_s:g} s"
            except (aiohttp.ClientError, ValueError) as error:
                reason, away = f"{type(error).__name__}: {error}"[:_SHOWN], isinstance(error, aiohttp.ClientOSError)
            waits = away and self._comes_back and time.monotonic() - began < _AWAY_S
            tries += not waits
        message = f"{url}: {reason}"
        raise RewardFailed(message) if status in (None, 200) else Answered(message, status)

    async def _once(self, url: str, key: str | None, body: Any) -> tuple[int, Any]:
        """The status of one try, with the JSON of a good answer or the text of another."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # A session per request: requests are few and long, and none outlives its event loop.
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s), headers=headers) as session,
            session.post(url, json=body) as answer,
        ):
            if answer.status == 200:
                return 200, await answer.json(content_type=None)
            return answer.status, " ".join((await answer.text(errors="replace")).split())[:_SHOWN]

    def _set_limits(self, timeout_s: float, retries: int, wait_s: float) -> None:
        for name, value in (("timeout_s", timeout_s), ("wait_s", wait_s)):
            if not value > 0:
                raise UserError(f"{name}={value}: must be above 0 seconds")
        if retries < 0:
            raise UserError(f"retries={retries}: must be at least 0")
        self._timeout_s, self._retries, self._wait_s = timeout_s, retries, wait_s


def _read_key(file: str) -> str:
    return Path(file).expanduser().read_text().strip()
